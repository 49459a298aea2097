"""Checkpoints: which file is what, and the networks in it."""
