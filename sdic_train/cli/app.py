"""`sdic-train`: data sets, generator, encoder, SDIC, edit directions, evaluation."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from sdic_runtime.cli.app import BAD_INPUT, INTERRUPTED, explained, print_version
from sdic_runtime.cli.options import Debug, Settings
from sdic_train.cli import dataset, directions, encoder, evaluate, generator, reader, sdic

app = typer.Typer(
    name="sdic-train",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train and evaluate SDIC on any domain: generator, encoder, SDIC, edit directions, evaluation.",
    epilog="Example: sdic-train sdic --model runs/encoder/model.safetensors --data data/portraits --out runs/sdic",
)
for module in (dataset, reader, generator, encoder, sdic, evaluate):
    app.command(module.NAME)(module.run)
app.add_typer(directions.app, name=directions.NAME)


@app.callback()
def whole(
    debug: Debug = False,
    version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Hold the options that stand before a command; their callbacks do all there is to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a check failed, 2 bad input, 130 interrupted."""
    settings = Settings()
    try:
        code = app(args=list(arguments) if arguments is not None else None, prog_name="sdic-train", standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if settings.debug:
            traceback.print_exc()
        typer.echo(f"error: {explained(error)}", err=True)
        return BAD_INPUT


def script() -> None:
    """The console script."""
    raise SystemExit(main())


if __name__ == "__main__":
    script()
