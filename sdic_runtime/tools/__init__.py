"""Measuring, comparing and diagnosing."""
