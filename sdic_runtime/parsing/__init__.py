"""Readers of files that came from somewhere else: bounded, and checked before they are believed."""
