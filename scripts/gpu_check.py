"""Measure and check the product on a GPU, section by section, each with a time limit; what is there counts, also when it is cut off.

    scripts/gpu_check.sh OUT                             # a model of the released sizes with random weights
    scripts/gpu_check.sh OUT --checkpoint SDIC_ffhq.pt   # with the weights of a checkpoint
    scripts/gpu_check.sh OUT --rehearse                  # the same commands on a CPU, with the demo model
    scripts/gpu_check.sh OUT --table                     # the table of docs/performance.md of what OUT holds

It runs from a checkout that is not installed, and needs torch, onnx, onnxscript, onnxruntime-gpu, cuda-bindings and the packages of
pyproject.toml's `dependencies`; pytest for the tests. The most valuable sections come first. OUT holds results.json, written anew after
every section, a log of each, and the bundle, so that a second call with --only goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, BUNDLE, CHECKPOINT = "results.json", "bundle", "checkpoint.pt"
TAIL = 1500  # characters of a log that stand in results.json
STOPPED = 124  # the exit code of what ran past its limit
# ONNX Runtime finds the CUDA libraries of wheels once torch is there, or when it is told to look for them.
LIBRARIES = """
import json, platform, sys
found = {"python": platform.python_version()}
try:
    import torch
    gpu = torch.cuda.is_available()
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version() if gpu else None}
    found |= {"card": torch.cuda.get_device_name(), "capability": list(torch.cuda.get_device_capability())} if gpu else {"card": None}
except ImportError as error:
    found["torch"] = str(error)
import onnxruntime
found |= {"onnxruntime": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}
json.dump(found, open(sys.argv[1], "w"))
print(json.dumps(found, indent=1))
"""
HALF = """
import sys
from sdic_export.cli.app import main
from sdic_runtime import Bundle
there = "fp16" in Bundle.open(sys.argv[1]).manifest.precisions
sys.exit(print("fp16 graphs are there already") if there else main(["half", sys.argv[1]]))
"""
DRAW = "import pathlib, sys, official_checkpoint as o; o.write_checkpoint(pathlib.Path(sys.argv[1]), o.face_shapes())"


@dataclass(frozen=True)
class Section:
    """One command. `data`: the JSON file in OUT that it writes, if any. `needs`: a section that must have gone well before."""

    name: str
    seconds: int
    command: Sequence[str]
    data: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Plan:
    """What is run where."""

    out: Path
    checkpoint: Path | None
    rehearse: bool

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def patience(self) -> int:
        """How often the limits, which are meant for a GPU, a section may take."""
        return 3 if self.rehearse else 1

    @property
    def weights(self) -> Path:
        demo = ROOT / "sdic_train/demo/portraits.safetensors"
        return self.checkpoint or (demo if self.rehearse else self.out / CHECKPOINT)

    def on(self, backend: str, *options: str) -> str:
        """A backend on the device, with further options; those for GPUs are omitted where there is none."""
        kept = [option for option in options if not (self.rehearse and ("tf32" in option or option.startswith("graphs=")))]
        return f"{backend}:{','.join([f'device={self.device}', *kept])}"

    def sections(self) -> Iterator[Section]:
        """All sections in their order."""
        bundle, picture = str(self.out / BUNDLE), str(next((ROOT / "examples").glob("*.png")))
        often = ("--runs", "1", "--warm-up", "0") if self.rehearse else ("--runs", "20", "--warm-up", "5")
        batches = ("--batch", "1") if self.rehearse else ("--batch", "1", "--batch", "4", "--batch", "8")
        torch, plain = self.on("torch"), self.on("torch-plain")
        onnx = self.on("onnxruntime", "precision=fp32")
        half, torch_half = self.on("onnxruntime", "precision=fp16"), self.on("torch", "precision=fp16")
        rounds = () if self.rehearse else ("--rounds", "2")

        def bench(name: str, seconds: int, *backends: str, needs: str = "build", sizes: Sequence[str] = batches) -> Section:
            named = [word for backend in dict.fromkeys(backends) for word in ("--backend", backend)]
            words = product("sdic_runtime", "bench", "--bundle", bundle, *named, *often, *sizes, "--json", str(self.out / f"{name}.json"))
            return Section(name, seconds, words, f"{name}.json", needs)

        def compare(name: str, seconds: int, *words: str, needs: str = "build") -> Section:
            common = (picture, "--bundle", bundle, "--aligned", "--json", str(self.out / f"{name}.json"))
            return Section(name, seconds, product("sdic_runtime", "compare", *common, *words), f"{name}.json", needs)

        yield Section("libraries", 120, python("-c", LIBRARIES, str(self.out / "libraries.json")), "libraries.json")
        if not self.rehearse:
            yield Section("driver", 30, ["nvidia-smi"])
        if self.weights == self.out / CHECKPOINT:
            yield Section("draw", 240, python("-c", DRAW, str(self.weights)))
        build = ("build", str(self.weights), "--out", bundle, "--no-cpu-graphs", "--no-parts", "--force")
        yield Section("build", 600, product("sdic_export", *build), needs="draw" if self.weights == self.out / CHECKPOINT else "")
        yield Section("half", 400, python("-c", HALF, bundle), needs="build")
        kernels = self.on("onnxruntime", "precision=fp16", "graphs=false")
        yield bench("bench_fp16", 400, plain, torch_half, half, kernels, needs="half", sizes=(*batches, *rounds))
        yield compare("fp16_against_fp32", 120, "--backend", half, "--against", onnx, "--tolerance", "0.05", needs="half")
        yield bench("bench_fp32", 300, plain, torch, onnx, sizes=(*batches, *rounds))
        yield compare("torch_against_cpu", 120, "--backend", torch, "--against", "onnxruntime")
        yield compare("onnxruntime_against_torch", 120, "--backend", onnx, "--against", torch)
        # All that is compared with torch.compile in one run; where compiling takes too long, bench_fp16 has the others.
        compiled = self.on("torch", "precision=fp16", "compile=true")
        yield bench("bench_compiled", 500, plain, torch_half, half, compiled, needs="half", sizes=("--batch", "1"))
        yield bench("bench_torch_half", 200, plain, torch_half, self.on("torch", "precision=bf16"))
        yield bench("bench_tf32", 250, plain, self.on("torch", "precision=tf32"), self.on("onnxruntime", "tf32=true"))
        tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", str(ROOT / "tests/test_runtime/backends"))
        if not self.rehearse:
            yield Section("gpu_tests", 300, python(*tests))
        engines = product("sdic_export", "engines", bundle, "--target", "tensorrt-rtx")
        yield Section("tensorrt_rtx", 300, engines, needs="half")
        if not self.rehearse:
            yield bench("bench_tensorrt_rtx", 250, plain, "tensorrt-rtx", needs="tensorrt_rtx", sizes=("--batch", "1"))


def python(*words: str) -> list[str]:
    return [sys.executable, *words]


def product(package: str, *words: str) -> list[str]:
    """A command of the product."""
    return python("-m", f"{package}.cli.app", *words)


def environment(site: Path) -> dict[str, str]:
    """That of a checkout which is not installed: its entry points lie in `site`, as an installation would write them."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = site / "sdic_checkout-0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: sdic-checkout\nVersion: 0\n", encoding="utf-8")
    groups = {group: "".join(f"{name} = {value}\n" for name, value in items.items()) for group, items in project["entry-points"].items()}
    (folder / "entry_points.txt").write_text("".join(f"[{group}]\n{lines}" for group, lines in groups.items()), encoding="utf-8")
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT), str(ROOT / "tests"), str(site)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def run(section: Section, out: Path, env: dict[str, str]) -> dict[str, Any]:
    """Run one section, its output in a log of its name; what is to be known of it."""
    log, start = out / f"{section.name}.log", time.perf_counter()
    if section.data:
        (out / section.data).unlink(missing_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        try:
            code = subprocess.run(
                section.command, env=env, cwd=out, stdout=stream, stderr=subprocess.STDOUT, timeout=section.seconds
            ).returncode
        except subprocess.TimeoutExpired:
            code = STOPPED
        except OSError as error:
            stream.write(f"{error}\n")
            code = 127
    told = {"code": code, "seconds": round(time.perf_counter() - start, 1), "limit": section.seconds, "command": list(section.command)}
    data = out / section.data if section.data else None
    found = {"data": json.loads(data.read_text(encoding="utf-8"))} if data is not None and data.is_file() else {}
    return {**told, **found, "output": log.read_text(encoding="utf-8", errors="replace")[-TAIL:]}


def run_all(plan: Plan, only: Sequence[str], say: Callable[[str], None]) -> bool:
    """Run the sections, or those named in `only`; whether all that ran went well. results.json is written after each."""
    plan.out.mkdir(parents=True, exist_ok=True)
    path = plan.out / RESULTS
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and only else {}
    results["about"] = {"date": date.today().isoformat(), "rehearsal": plan.rehearse, "weights": plan.weights.name}
    done = results.setdefault("sections", {})
    env, ran = environment(plan.out / "site"), []

    def write() -> None:
        whole = path.with_suffix(".tmp")
        whole.write_text(json.dumps(results, indent=1), encoding="utf-8")
        whole.replace(path)

    for section in plan.sections():
        if only and section.name not in only:
            continue
        outdated(done, section.name, list(plan.sections()))
        write()  # what is killed now did not go well
        if section.needs and done.get(section.needs, {}).get("code") != 0:
            done[section.name] = {"code": None, "output": f'"{section.needs}" did not go well before it'}
        else:
            done[section.name] = run(replace(section, seconds=section.seconds * plan.patience), plan.out, env)
        ran.append(section.name)
        write()
        code = done[section.name]["code"]
        why = f"  {done[section.name]['output']}" if code is None else ""
        say(f"{section.name:28} {'omitted' if code is None else f'code {code}':10} {done[section.name].get('seconds', 0):7.1f} s{why}")
    return all(done[name]["code"] == 0 for name in ran)


def outdated(done: dict[str, Any], name: str, sections: Sequence[Section], why: str = "it was begun again and did not end") -> None:
    """Forget that a section went well which runs again now, and that those did which need it; what they measured stays."""
    if name in done:
        done[name] = {**done[name], "code": None, "output": why}
    for section in sections:
        if section.needs == name:
            outdated(done, section.name, sections, f'"{name}" ran again behind it')


def table(results: dict[str, Any]) -> str:
    """The benchmarks as Markdown: median milliseconds, and ratios against the first backend of the same section, by batch; then what
    is missing."""
    sections = results["sections"]
    where = sections.get("libraries", {}).get("data", {})
    about = [
        where.get("card") or "no GPU",
        results["about"]["date"],
        *(f"{name} {where.get(name)}" for name in ("torch", "cuda", "onnxruntime")),
    ]
    lines = [", ".join(map(str, about)) + (" (a rehearsal)" if results["about"]["rehearsal"] else ""), ""]
    lines += [
        "| section | what ran | batch | inversion, ms | ratio | edit, ms | ratio | peak GB of host memory | GB of GPU memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in (name for name in sections if name.startswith("bench")):
        first: dict[tuple[int, str], float] = {}  # of this section: another ran at another time
        for item in sections[name].get("data", {}).get("measured", []):
            for batch in item["batches"]:
                cells = []
                for what in ("inversion", "edit"):
                    p50 = batch[what]["p50"]
                    base = first.setdefault((batch["batch"], what), p50)
                    cells += [f"{1000 * p50:.1f}", f"{base / p50:.2f} x"]
                for memory in ("peak_memory_bytes", "gpu_memory_bytes"):
                    cells.append(f"{item[memory] / 1e9:.1f}" if item.get(memory) else "-")
                lines.append(f"| {name} | {item['description']} | {batch['batch']} | {' | '.join(cells)} |")
    missing = [
        f"{name}: {'ran past its limit' if told['code'] == STOPPED else 'failed or omitted'}"
        for name, told in sections.items()
        if told["code"] != 0
    ]
    return "\n".join([*lines, "", *(f"* {text}" for text in missing)]).rstrip()


def main(words: Sequence[str] | None = None) -> int:
    """Run, or print the table; 0 when all that ran went well."""
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for results, logs and the bundle")
    parser.add_argument("--checkpoint", type=Path, help="weights; random ones of the released sizes when omitted")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with the demo model")
    parser.add_argument("--only", action="append", default=[], metavar="SECTION", help="run this section alone; repeat it for several")
    parser.add_argument("--table", action="store_true", help="print what OUT holds as Markdown, and run nothing")
    parser.add_argument("--list", action="store_true", help="print the sections with their limits, and run nothing")
    args = parser.parse_args(words)
    plan = Plan(args.out.resolve(), args.checkpoint and args.checkpoint.resolve(), args.rehearse)
    known = [section.name for section in plan.sections()]
    unknown = [name for name in args.only if name not in known]
    if unknown:
        parser.error(f'there is no section "{unknown[0]}"; there are: {", ".join(known)}')
    if args.list:
        print("\n".join(f"{section.name:28} {section.seconds * plan.patience:5} s" for section in plan.sections()))
        return 0
    if args.table:
        path = plan.out / RESULTS
        if not path.is_file():
            parser.error(f"{path} is not there; run the sections first")
        print(table(json.loads(path.read_text(encoding="utf-8"))))
        return 0
    return 0 if run_all(plan, args.only, partial(print, flush=True)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
