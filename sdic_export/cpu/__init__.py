"""Variants of stages that are optimized for ONNX Runtime on CPUs."""
