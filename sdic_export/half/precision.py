"""Half precision in the graph: float32 at the borders and wherever a policy says so, half everywhere else.

A policy is a small TOML file (`policies/fp16.toml` says what the rules mean). The types are explicit in the graph, so every runtime
that honours a strongly typed graph computes what `sdic_export.half.check` checked.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_export.graphs.exporter import EXTERNAL_FROM, save_variant
from sdic_export.half.typed_graph import FLOAT, HALVES, Shapes, infer_shapes, layer_names, prepared, retyped
from sdic_runtime.bundle.manifest import FORMS, STANDARD
from sdic_runtime.errors import ArgumentError, BundleError, FileError

if TYPE_CHECKING:
    import onnx

POLICY_FOLDER = Path(__file__).with_name("policies")
EVERY = "every"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")  # it becomes a folder of graphs, and a word on the command line
TYPES = {"fp16": "float16", "bf16": "bfloat16"}  # precisions that backends know by their names
TAKEN = {STANDARD, "auto", *FORMS}
SEE = f"see {POLICY_FOLDER / 'fp16.toml'} for one that works"


@dataclass(frozen=True)
class Rules:
    """Which nodes of a stage stay float32; see `policies/fp16.toml`."""

    axes: int = 0
    channels: int = 0
    size: int = 0
    operators: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    def joined(self, other: Rules) -> Rules:
        """What either keeps."""
        return Rules(
            max(self.axes, other.axes),
            max(self.channels, other.channels),
            max(self.size, other.size),
            self.operators + other.operators,
            self.layers + other.layers,
        )

    def names(self, layer: str) -> bool:
        """Whether `layer` stays float32 because of its name."""
        return any(fnmatchcase(layer, pattern) for pattern in self.layers)

    def keep(self, node: onnx.NodeProto, layer: str, shapes: Shapes) -> bool:
        """Whether `node` of `layer` stays float32."""
        shape = shapes.get(node.output[0], ())
        if node.op_type in self.operators or self.names(layer):
            return True
        if len(shape) <= self.axes:
            return True
        if self.size and len(shape) >= 4 and all(isinstance(axis, int) and axis <= self.size for axis in shape[2:]):
            return True
        return _channels(shape) <= self.channels and all(
            _channels(shapes[name]) <= self.channels
            for name in node.input
            if len(shapes.get(name, ())) > self.axes and name not in shapes.constants
        )


@dataclass(frozen=True)
class Limits:
    """What the check asks for: see `policies/fp16.toml`."""

    stage: float
    chain: float
    largest: float


@dataclass(frozen=True)
class Policy:
    """A precision: the type that replaces float32, where it does not, and what the check asks for."""

    name: str  # also the precision's name in a bundle; that of a file says it, or its name does
    type: str  # "float16" or "bfloat16"
    limits: Limits
    stages: Mapping[str, Rules] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = self.name.lower()
        kind = TYPES.get(name, self.type)
        if NAME.fullmatch(self.name) and name not in TAKEN and kind == self.type and (name == self.name or name not in TYPES):
            return
        why = f"which is {kind} and not {self.type}" if kind != self.type else "which means something else" if name in TAKEN else ""
        wrong = f'"{self.name:.60}", {why}' if why else f'"{self.name:.60}", which is no plain word'
        raise ArgumentError(f'a precision cannot be called {wrong}; call the policy\'s file fp16.toml, or write name = "..." into it')

    def rules(self, stage: str) -> Rules:
        """The rules of `stage` joined with those of every stage."""
        return self.stages.get(EVERY, Rules()).joined(self.stages.get(stage, Rules()))

    def check(self, stages: Iterable[str]) -> Policy:
        """The policy itself. Raises ArgumentError when it has rules for a stage that is not among `stages`."""
        unknown = [stage for stage in self.stages if stage != EVERY and stage not in stages]
        if unknown:
            known = ", ".join([EVERY, *stages])
            raise ArgumentError(f'the precision policy "{self.name}" has rules for the stage "{unknown[0]}", and the stages are {known}')
        return self

    def without_rules(self) -> Policy:
        """The same type with nothing kept in float32 but the borders."""
        return replace(self, stages={})


def policy_names() -> list[str]:
    """The policies that come with the package."""
    return sorted(path.stem for path in POLICY_FOLDER.glob("*.toml"))


def load_policy(policy: str | os.PathLike[str] | Policy = "fp16") -> Policy:
    """A policy by its name or from a TOML file. Raises ArgumentError for an unknown name, FileError."""
    if isinstance(policy, Policy):
        return policy
    path = POLICY_FOLDER / f"{policy}.toml" if str(policy) in policy_names() else Path(policy)
    if not path.is_file():
        raise ArgumentError(f'there is no precision policy "{policy}"; use {" or ".join(policy_names())}, or name a TOML file')
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FileError(f"cannot read the precision policy {path} ({error}); {SEE}") from error
    return _policy(path, data)


@dataclass(frozen=True)
class Form:
    """How a float32 graph becomes another one that computes the same, or None where it has no such form, without mixing layers that stay
    float32 with others; patterns of layers of that form which stay float32, and of those which do not, whatever a policy says."""

    arrange: Callable[[onnx.ModelProto, Callable[[str], bool]], onnx.ModelProto | None]
    single: tuple[str, ...] = ()
    half: tuple[str, ...] = ()


STANDARD_FORM = Form(lambda model, kept: model)


def to_half(
    model: onnx.ModelProto, stage: str, policy: str | os.PathLike[str] | Policy = "fp16", form: Form = STANDARD_FORM
) -> onnx.ModelProto:
    """`model`, a float32 graph of `stage` in the form `form`, in the precision of `policy`; `model` itself is left as it is.

    Inputs and outputs stay float32, names stay the same. Weights in half precision are rounded to nearest. Raises BundleError for a weight
    beyond the range of the type, with its layer.
    """
    policy = load_policy(policy)
    rules, model = policy.rules(stage), prepared(model)
    shapes, layers = infer_shapes(model), layer_names(model.graph)

    def keep(node: onnx.NodeProto) -> bool:
        layer = layers[node.output[0]]
        if any(fnmatchcase(layer, pattern) for pattern in form.half):
            return False
        return any(fnmatchcase(layer, pattern) for pattern in form.single) or rules.keep(node, layer, shapes)

    types = {index: FLOAT if keep(node) else HALVES[policy.type] for index, node in enumerate(model.graph.node)}
    return retyped(model, types, shapes, stage)


def write_half(
    source: Path,
    target: Path,
    stage: str,
    policy: str | os.PathLike[str] | Policy = "fp16",
    form: Form = STANDARD_FORM,
    others: Sequence[Path] = (),
) -> bool:
    """`to_half` from file to file, in the form `form`; large weights go to `target`.data, and so do those that `source` keeps apart, but
    for those that `others`, graphs in the same folder, keep apart already. Where there is no such form nothing is written, and the answer
    is False. Raises BundleError."""
    import onnx
    import onnx_ir as ir

    single = onnx.load(source, load_external_data=False)
    external = any(tensor.external_data for tensor in single.graph.initializer)
    try:
        onnx.load_external_data_for_model(single, str(source.parent))
    except onnx.checker.ValidationError as error:  # such as for a hard link that a model repository has
        raise BundleError(f"cannot read the weights of {source}: {error}; copy the bundle and use the copy") from error
    arranged = form.arrange(single, load_policy(policy).rules(stage).names)
    del single
    if arranged is None:
        return False
    model = to_half(arranged, stage, policy, form)
    del arranged
    target.parent.mkdir(parents=True, exist_ok=True)
    save_variant(ir.from_proto(model), target, others, 0 if external else EXTERNAL_FROM)
    return True


def _channels(shape: tuple[int | None, ...]) -> int:
    """Channels of a map [N, C, ...]; a very large number where that is not known."""
    return shape[1] if len(shape) > 1 and shape[1] is not None else sys.maxsize


def _policy(path: Path, data: Mapping[str, Any]) -> Policy:
    def fail(what: str) -> FileError:
        return FileError(f"the precision policy {path} is not valid: {what}; {SEE}")

    data = dict(data)
    kind, limits, name = data.pop("type", None), data.pop("limits", None), data.pop("name", path.stem)
    if kind not in HALVES:
        raise fail(f"type is {kind!r}, expected {' or '.join(HALVES)}")
    wanted = [item.name for item in fields(Limits)]
    if not isinstance(limits, dict) or sorted(limits) != sorted(wanted) or not all(_is_number(value) for value in limits.values()):
        raise fail(f"[limits] is {limits!r:.80}, expected numbers for {', '.join(wanted)}")
    if not isinstance(name, str):
        raise fail(f"name is {name!r:.60}, expected a word")
    for stage, table in data.items():
        if not isinstance(table, dict):
            raise fail(f'"{stage}" is {table!r:.60}, expected a table of rules')
    return Policy(name, kind, Limits(**limits), {stage: _rules(stage, table, fail) for stage, table in data.items()})


def _rules(stage: str, table: Mapping[str, Any], fail: Any) -> Rules:
    kinds = {item.name: tuple if item.name in ("operators", "layers") else int for item in fields(Rules)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in kinds:
            raise fail(f'[{stage}] has the unknown rule "{name}", and the rules are {", ".join(kinds)}')
        valid = _are_strings(value) if kinds[name] is tuple else isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not valid:
            raise fail(f"[{stage}] {name} is {value!r:.60}, expected {'a list of names' if kinds[name] is tuple else 'a whole number'}")
        values[name] = tuple(value) if kinds[name] is tuple else value
    return Rules(**values)


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
