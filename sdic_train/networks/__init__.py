"""The networks in pure PyTorch. Parameter names are those of the released checkpoints, so files load by name."""
