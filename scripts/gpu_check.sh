#!/bin/sh
# What to run when a GPU is at hand: scripts/gpu_check.sh OUT; --help says more. Nothing needs to be installed but what is listed there.
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_check.py" "$@"
