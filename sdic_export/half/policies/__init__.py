"""Precision policies, one TOML file each."""
