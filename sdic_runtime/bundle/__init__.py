"""Bundles: the folder a model is shipped in."""
