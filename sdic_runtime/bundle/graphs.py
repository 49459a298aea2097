"""Which file: for a stage, the outputs asked for, and the variants that a backend runs. The only place that answers it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdic_runtime.bundle.manifest import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, OPENVINO, Manifest

__all__ = ["ONNXRUNTIME_CPU", "ONNXRUNTIME_CUDA", "OPENVINO", "Graph", "chosen", "files_in", "files_of", "graph_for", "graph_keys", "parts"]


@dataclass(frozen=True)
class Graph:
    """The graph that answers a request: "stage", or "stage:output" for that output alone; which variant of it, and its files."""

    key: str
    variant: str
    files: tuple[str, ...]

    @property
    def alone(self) -> str:
        """The one output that it computes; "" for a whole stage."""
        return parts(self.key)[1]


def parts(key: str) -> tuple[str, str]:
    """The stage of a graph, and the one output that it computes; "" for a whole stage."""
    stage, _, output = key.partition(":")
    return stage, output


def graph_for(manifest: Manifest, stage: str, outputs: Sequence[str], variants: Sequence[str]) -> Graph:
    """The graph with the least work for `outputs` of `stage`, in the first of `variants` that it has. Raises KeyError where the bundle has
    none; a precision of `Manifest.precisions` among the variants rules that out."""
    keys = (f"{stage}:{outputs[0]}", stage) if len(outputs) == 1 else (stage,)
    for key in keys:
        for variant in variants:
            files = (manifest.graphs.get(key) or manifest.part_graphs.get(key, {})).get(variant)
            if files:
                return Graph(key, variant, files)
    raise KeyError(f'no graph of the stage "{stage}" in {", ".join(variants)}')


def graph_keys(manifest: Manifest, variant: str) -> list[str]:
    """The graphs that there are in `variant`: stages first, then those of one output."""
    return sorted((key for key, variants in manifest.graphs.items() if variant in variants), key=lambda key: ":" in key)


def files_of(manifest: Manifest, graphs: Iterable[str]) -> list[str]:
    """Graph files with the external weights that they read, each once."""
    return list(dict.fromkeys(name for graph in graphs for name in (graph, *manifest.weights.get(graph, ()))))


def files_in(manifest: Manifest, variants: Sequence[str]) -> list[str]:
    """Every file that a backend may read which runs the first of `variants` that a graph has; without those of parts of stages."""
    return files_of(manifest, (file for files in chosen(manifest, variants).values() for file in files))


def chosen(manifest: Manifest, variants: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The files of every graph in the first of `variants` that it has."""
    return {key: next((there[name] for name in variants if name in there), ()) for key, there in manifest.graphs.items()}
