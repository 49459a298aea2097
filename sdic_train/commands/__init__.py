"""One module per command of `sdic-train`."""
