"""The loops that run a trainer, and what a run's folder holds."""
