"""Edit directions for bundles."""
