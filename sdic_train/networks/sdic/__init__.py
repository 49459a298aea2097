"""The networks of SDIC."""
