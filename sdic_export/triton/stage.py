"""Runs the ONNX graph beside it on ONNX Runtime: a model of Triton's Python backend, for servers without the ONNX Runtime backend.

`sdic-export triton --backend python` copies this file into every model; it needs only numpy and onnxruntime where the server runs.
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

QUIET = 3


class TritonPythonModel:
    """One instance of one graph."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load `model.onnx` of the version that Triton chose."""
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        threads = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value")
        if threads:
            options.intra_op_num_threads = int(threads)
        providers: list[Any] = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": args["model_instance_device_id"]}))
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests that Triton gathered, as one batch."""
        arrays = [{name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs} for request in requests]
        joined = {name: np.concatenate([inputs[name] for inputs in arrays]) for name in self.inputs}
        ends = np.cumsum([len(inputs[self.inputs[0]]) for inputs in arrays])[:-1]
        try:
            results = [np.split(array, ends) for array in self.session.run(self.outputs, joined)]
        except Exception as error:  # whatever it is, the clients are waiting for an answer
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))) for _ in requests]
        return [self._response(parts) for parts in zip(*results, strict=True)]

    def _response(self, arrays: tuple[np.ndarray, ...]) -> Any:
        tensors = [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in zip(self.outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(tensors)
