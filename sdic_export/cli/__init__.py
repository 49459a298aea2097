"""The commands of `sdic-export`."""

import sdic_runtime.cli  # noqa: F401 - its answer to Ctrl-C, from here on
