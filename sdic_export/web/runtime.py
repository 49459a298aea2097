"""The files of onnxruntime-web that a site needs: of its npm package, which is checked."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdic_runtime.errors import ArgumentError, FileError
from sdic_runtime.files import reason

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # of the packed file, as npm writes it
WASM = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
PACK_SECONDS = 600
GET_IT = f"install npm, or get {PACKAGE}-{VERSION}.tgz elsewhere (npm pack {PACKAGE}@{VERSION}) and name it with --onnxruntime-web"
NOTICE = f"""{PACKAGE} {VERSION}, from its npm package
Copyright (c) Microsoft Corporation. All rights reserved.

MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the
following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH
THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def copy_runtime(folder: Path, source: Path | None = None, webgpu: bool = True) -> None:
    """Copy what a site needs into `folder`: of `source`, the package packed (checked against SHA512) or unpacked (its version is checked),
    or when None of what `npm pack` gets. Raises ArgumentError or FileError."""
    folder.mkdir(parents=True)
    with _unpacked(source) as package:
        for name in (*WASM, *(WEBGPU if webgpu else ())):
            try:
                shutil.copyfile(package / "dist" / name, folder / name)
            except OSError as error:
                raise FileError(f"{package} lacks dist/{name} ({reason(error)}); get {PACKAGE} {VERSION} again") from error
    (folder / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")


@contextmanager
def _unpacked(source: Path | None) -> Iterator[Path]:
    """The folder of the package."""
    if source is not None and source.is_dir():
        _check_version(source)
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(Path(folder)) if source is None else source
        _check_hash(packed)
        with tarfile.open(packed) as archive:
            archive.extractall(folder, [item for item in archive if item.isfile()], filter="data")
        yield Path(folder) / "package"


def pack(folder: Path) -> Path:
    """Have npm fetch the package, packed, into `folder`; its file. Raises ArgumentError."""
    npm = shutil.which("npm")
    if npm is None:
        raise ArgumentError(f"the site needs {PACKAGE} {VERSION}, and there is no npm to get it with; {GET_IT}")
    try:
        done = subprocess.run(
            [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent"], cwd=folder, capture_output=True, text=True, timeout=PACK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArgumentError(f"npm pack {PACKAGE}@{VERSION} failed ({type(error).__name__}); {GET_IT}") from error
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or not found:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
        raise ArgumentError(f"npm pack {PACKAGE}@{VERSION} failed ({said.strip()[:200]}); {GET_IT}")
    return found[0]


def _check_hash(packed: Path) -> None:
    try:
        digest = base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode()
    except OSError as error:
        raise ArgumentError(f"cannot read {packed}: {reason(error)}; {GET_IT}") from error
    if digest != SHA512:
        raise ArgumentError(
            f"{packed} is not {PACKAGE} {VERSION} as npm has it: its SHA-512 is {digest[:12]}..., not {SHA512[:12]}...; {GET_IT}"
        )


def _check_version(package: Path) -> None:
    try:
        described = json.loads((package / "package.json").read_text(encoding="utf-8"))
        found = f"{described['name']} {described['version']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f"{package} is not the unpacked npm package {PACKAGE}: it has no package.json of it; {GET_IT}") from error
    if found != f"{PACKAGE} {VERSION}":
        raise ArgumentError(f"{package} holds {found}, and the site is made for {PACKAGE} {VERSION}; {GET_IT}")
