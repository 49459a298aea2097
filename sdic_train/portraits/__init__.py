"""The demo domain: drawn portraits."""
