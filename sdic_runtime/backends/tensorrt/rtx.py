"""The TensorRT-RTX backend: what the TensorRT backend does, with engines that run on all RTX cards they were built for."""

from __future__ import annotations

from functools import partial

from sdic_runtime.backends.tensorrt.backend import distrust, load_target, obstacle, runs_in
from sdic_runtime.backends.tensorrt.settings import Target

unavailable, load = partial(obstacle, Target.tensorrt_rtx), partial(load_target, Target.tensorrt_rtx)
untrusted, precisions = partial(distrust, Target.tensorrt_rtx), partial(runs_in, Target.tensorrt_rtx)
