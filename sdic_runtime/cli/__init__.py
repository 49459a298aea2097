"""The commands of `sdic-run`."""
