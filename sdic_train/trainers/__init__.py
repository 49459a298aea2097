"""Trainers: one per network; those of the methods, and the loops that run them, in rooms of their own."""
