"""HyperStyle: a generator whose weights are changed for every picture."""
