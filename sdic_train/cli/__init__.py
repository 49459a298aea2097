"""The commands of `sdic-train`."""
