"""Graphs in the form that ONNX Runtime's CUDA provider runs fastest; `form` puts the rest of this folder together."""
