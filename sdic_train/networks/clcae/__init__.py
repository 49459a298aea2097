"""CLCAE: codes that attend to each other, and a content feature at 16 x 16."""
