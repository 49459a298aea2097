"""The studio: a page with sliders, and the service behind it."""
