"""Trainers of inversion methods, and how each is built."""
