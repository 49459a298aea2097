"""Training of the generator, the encoder and SDIC: recipes, losses, the loop they share."""
