"""HFGI: the alignment of the distortion map, and the consultation of it."""
