"""Distances between pictures: pixels, perceptual distance, identity."""
