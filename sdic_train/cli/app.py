"""`sdic-train`: data sets, generator, encoder, SDIC and other methods, tuning, edit directions, evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from sdic_runtime.cli.app import command_line, run
from sdic_train.cli import dataset, directions, encoder, evaluate, generator, method, reader, sdic, tune

app = command_line(
    "sdic-train",
    "Train and evaluate SDIC on any domain: generator, encoder, SDIC, edit directions, evaluation.",
    "sdic-train dataset --out data/portraits --count 24000 --size 128",
)
for module in (dataset, reader, generator, encoder, sdic, method, tune, evaluate):
    app.command(module.__name__.rpartition(".")[2])(module.run)
app.add_typer(directions.app, name="directions")


def main(arguments: Sequence[str] | None = None) -> int:
    """`sdic-train`: run one command and return its exit code; see `run`."""
    return run(app, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
