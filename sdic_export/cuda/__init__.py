"""Stages in forms that ONNX Runtime's CUDA provider runs fastest."""
