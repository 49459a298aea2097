"""Half-precision variants of stages."""
