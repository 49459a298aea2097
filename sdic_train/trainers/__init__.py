"""Trainers: one per network."""
