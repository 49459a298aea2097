"""A process that forks off can use a pipeline of its parent, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
import numpy as np
from sdic_runtime import Pipeline

pipeline = Pipeline.load(sys.argv[1], backend=sys.argv[2])
picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
before = pipeline.invert(picture).pixels
child = os.fork()
if child == 0:
    same = np.array_equal(pipeline.invert(picture).pixels, before)
    sys.exit(7 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array_equal(pipeline.invert(picture).pixels, before))
"""

GONE = """
import gc, os, sys
from sdic_runtime import Pipeline

pipeline = Pipeline.load(sys.argv[1], backend=sys.argv[2])
pipeline.close()
del pipeline
gc.collect()
child = os.fork()
if child == 0:
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("program", "printed"), [(PROGRAM, "7 True\n"), (GONE, "7\n")], ids=["used", "gone"])
def test_a_child_ends_with_its_own_exit_code(program: str, printed: str, backend: str, tiny_bundle: Path) -> None:
    """It loads anew what it uses, and waits for nothing where no pipeline is left."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", program, tiny_bundle, backend], capture_output=True, text=True, timeout=60)
    assert done.stdout == printed, done.stderr


TWICE = """
import os, sys
import numpy as np
from sdic_runtime import Pipeline

pipelines = [Pipeline.load(sys.argv[1], backend="openvino") for _ in range(2)]
picture = np.zeros((20, 20, 3), np.uint8)

def in_a_child(work):
    child = os.fork()
    if child == 0:
        sys.exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def forked():
    for pipeline in pipelines:
        pipeline.invert(picture)
    del pipeline
    pipelines.pop(int(sys.argv[2])).close()
    return in_a_child(lambda: 7)

print(in_a_child(forked))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("gone", ["0", "1"])
def test_a_child_of_a_child_waits_for_no_thread_either(gone: str, tiny_bundle: Path) -> None:
    """What the first child made anew, and a pipeline that is gone had, is not ended in the second."""
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", TWICE, tiny_bundle, gone], capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n", done.stderr
