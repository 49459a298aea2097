"""Stages as modules that export well."""
