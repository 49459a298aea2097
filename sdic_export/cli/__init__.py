"""The commands of `sdic-export`."""
