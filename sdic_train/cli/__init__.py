"""The commands of `sdic-train`."""

import sdic_runtime.cli  # noqa: F401 - its answer to Ctrl-C, from here on
