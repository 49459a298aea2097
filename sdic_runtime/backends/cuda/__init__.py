"""An NVIDIA GPU: driver, memory, DLPack."""
