"""Bundles: the folder a model is shipped in, and the checks before any of it is used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sdic_runtime.bundle.graphs import Graph, files_of, graph_for
from sdic_runtime.bundle.manifest import BUILD_HINT, MANIFEST_NAME, Manifest, parse_manifest
from sdic_runtime.bundle.onnx_file import OnnxFileError, read_onnx_file
from sdic_runtime.bundle.unchanged import Record
from sdic_runtime.cpus import available_cpus
from sdic_runtime.errors import ArgumentError, BundleError
from sdic_runtime.files import TRUST_VARIABLE, is_inside, open_regular, read_regular, reason, sha256
from sdic_runtime.leftovers import bring_back
from sdic_runtime.parsing.json_text import LARGEST

TRUST_HINT = "--trust before the command, or trust=True in Python"
SHOWN = 3  # operators in a sentence
DEMO_FOLDER = Path(__file__).with_name("demo")


class Bundle:
    """An opened bundle: its manifest, and its files, each checked against its hash before its path is handed out."""

    def __init__(self, path: Path, manifest: Manifest, verify: bool = True, trust: bool = False, remember: bool = False) -> None:
        self.path, self.manifest, self._verify = path, manifest, verify
        self._record = Record(path) if remember and verify else None
        self.trust = trust or os.environ.get(TRUST_VARIABLE) == "1"
        self._checked: set[str] = set()
        tables = (*manifest.graphs.values(), *manifest.part_graphs.values())
        self._graphs = {file for variants in tables for files in variants.values() for file in files}

    def __repr__(self) -> str:
        return f'<Bundle "{self.manifest.name}" ({self.manifest.method}) at {self.path}>'

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None, verify: bool = True, trust: bool = False, remember: bool = False) -> Bundle:
        """Open the bundle in the folder `path` (or the embedded demo bundle). With `verify=False` hashes are not compared; with `remember`
        not those of files that this user compared before and that have not changed since, see `unchanged`. `trust` allows graphs what only
        graphs of someone known may do: operators that may never end, and engines. Raises BundleError when it is no bundle, of a newer
        schema, or its manifest is not valid."""
        folder = DEMO_FOLDER if path is None else Path(path)
        try:
            os.stat(folder)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            pass  # told below
        except OSError as error:  # a name that is too long, links in a circle
            raise BundleError(f"cannot read {folder}: {reason(error)}; {BUILD_HINT}") from error
        if folder.name == MANIFEST_NAME and folder.is_file():
            folder = folder.parent
        manifest_path = folder / MANIFEST_NAME
        if path is None and not manifest_path.exists():
            raise BundleError(f"the embedded demo bundle is missing at {folder}; name a bundle or install sdic-toolkit again")
        if not folder.exists():
            bring_back(folder)  # a replacement may have died halfway
        if not folder.exists():
            raise BundleError(f"there is no bundle at {folder}; {BUILD_HINT}")
        try:
            text = read_regular(manifest_path, LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(f"{folder} is not a bundle, it has no {MANIFEST_NAME}; {BUILD_HINT}") from None
        except OSError as error:
            raise BundleError(f"cannot read {manifest_path}: {reason(error)}") from error
        return cls(folder, parse_manifest(text, str(manifest_path)), verify, trust, remember)

    def file(self, name: str, hashed: bool = True) -> Path:
        """The path of the file `name`, there and (once per bundle) checked against its size and hash, and a graph also for what it asks to
        run and to read. A link that leaves the bundle is followed where the hash of its target is right. Weights whose hash is compared
        later, see `check`, need not be `hashed` now. Raises BundleError."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f'{self.path / MANIFEST_NAME} lists no file "{name}"; {BUILD_HINT}')
        path = self.path / name
        if name in self._checked:
            return path
        try:
            with open_regular(path) as stream:
                size = os.fstat(stream.fileno()).st_size
            damage = f"it has {size} bytes instead of {entry.bytes}" if size != entry.bytes else ""
            hashed = hashed or name in self._graphs or self.leaves(path)
            if not damage and hashed and (self._verify or self.leaves(path)) and not self._has_hash(path, entry.sha256):
                damage = "its SHA-256 is not the one in " + MANIFEST_NAME
        except FileNotFoundError:
            damage = "it is missing"
        except OSError as error:
            damage = reason(error)
        if damage:
            raise BundleError(f"{path} is damaged: {damage}; see the whole extent with: sdic-export verify {self.path}")
        if name in self._graphs:
            self._check_graph(name, path)
        if hashed:
            self._checked.add(name)
        return path

    def _has_hash(self, path: Path, expected: str) -> bool:
        """Whether the file has this hash now, or had it and has not changed since. Raises OSError."""
        if self._record is None or self.leaves(path):
            return sha256(path) == expected
        if not self._record.has(path, expected):
            before = path.stat()
            if sha256(path) != expected:
                return False
            self._record.add(path, expected, before)
        return True

    def leaves(self, path: Path) -> bool:
        """Whether a file of the bundle is a link to a place outside it."""
        return not path.resolve().is_relative_to(self.path.resolve())

    def outside(self, graph: Path) -> dict[str, Path]:
        """The external weights of a graph that are links out of its folder, which no library follows: their names in the graph -> their
        files."""
        names = self.manifest.weights.get(graph.relative_to(self.path).as_posix(), ())
        paths = [path for path in (self.path / name for name in names) if not path.resolve().is_relative_to(graph.parent.resolve())]
        return {Path(os.path.relpath(path, graph.parent)).as_posix(): path for path in paths}

    def refuse_links(self, who: str, graph: Path | None = None) -> None:
        """Raise BundleError where weights of `graph`, or of any graph, are links out of its folder, which `who` does not follow."""
        graphs = [self.path / name for name in self.manifest.weights] if graph is None else [graph]
        for path in (path for each in graphs for path in self.outside(each).values()):
            raise BundleError(f"{path} is a link out of its folder, which {who} does not follow; use a copy: cp -rL {self.path} COPY")

    def _check_graph(self, name: str, path: Path) -> None:
        """A graph reads no file but the weights that the manifest lists for it, and runs known operators. Raises BundleError."""
        try:
            found = read_onnx_file(path)
        except OnnxFileError as error:
            raise BundleError(f"{path} is no ONNX file: {error}; {BUILD_HINT}") from error
        listed = {os.path.normpath(os.path.join(self.path, weights)) for weights in self.manifest.weights.get(name, ())}
        for location in sorted(found.locations):
            if not is_inside(location) or os.path.normpath(path.parent / location) not in listed:
                raise BundleError(f'{path} reads "{location}", which the bundle does not list as its weights; {BUILD_HINT}')
        if found.unknown and not self.trust:
            operators = ", ".join(found.unknown[:SHOWN]) + (f" and {len(found.unknown) - SHOWN} more" if len(found.unknown) > SHOWN else "")
            raise BundleError(f"{path} runs {operators}, which may do anything or never end; if you know who made it, use: {TRUST_HINT}")

    def check(self, names: Iterable[str] | None = None) -> None:
        """Check the files `names` (all of the bundle when not given), several at a time. Raises BundleError for the first damaged one."""
        with ThreadPoolExecutor(min(4, available_cpus())) as pool:
            list(pool.map(self.file, list(self.manifest.files if names is None else names)))
        if self._record is not None:
            self._record.save()

    def precision(self, wanted: str | None = None) -> str:
        """The precision to run in: `wanted`, or the bundle's default. Raises ArgumentError when a stage lacks it."""
        precision = wanted or self.manifest.default_precision
        if precision not in self.manifest.precisions:
            there = ", ".join(self.manifest.precisions)
            raise ArgumentError(f'{self.path} has no complete set of stages in precision "{precision}"; it has: {there}')
        return precision

    def graph(self, stage: str, outputs: Sequence[str], variants: Sequence[str], hashed: bool = True) -> tuple[Graph, list[Path]]:
        """The graph that answers, see `graph_for`, and its checked files, external weights checked too; `hashed`: see `file`."""
        graph = graph_for(self.manifest, stage, outputs, variants)
        paths = {name: self.file(name, hashed) for name in files_of(self.manifest, graph.files)}
        return graph, [paths[name] for name in graph.files]
