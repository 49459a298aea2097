"""The commands of `sdic-run`, one module each. Nothing heavy is imported before a command really starts."""
