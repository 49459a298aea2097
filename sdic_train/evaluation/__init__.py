"""How good an inversion and its edits are."""
