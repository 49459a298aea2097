"""Backends: what runs the stages of a bundle."""
