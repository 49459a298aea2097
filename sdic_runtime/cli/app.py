"""`sdic-run`: invert pictures, edit them, and look after bundles and backends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from sdic_runtime.cli import batch, bench, compare, demo, doctor, edit, invert, sweep
from sdic_runtime.cli.options import Debug, Settings
from sdic_runtime.errors import SdicError
from sdic_runtime.files import reason

BAD_INPUT = 2
INTERRUPTED = 130

app = typer.Typer(
    name="sdic-run",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Invert pictures into a generator's latent space and edit them: SDIC bundles on ONNX Runtime, TensorRT or PyTorch.",
    epilog="Example: sdic-run edit portrait.png --direction smile --strength 2",
)
for module in (invert, edit, sweep, batch, compare, bench, doctor, demo):
    app.command(module.NAME)(module.run)


def print_version(wanted: bool) -> None:
    """Print the installed version and stop."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sdic {version('sdic-toolkit')}")
        raise typer.Exit


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
        code = app(args=list(arguments) if arguments is not None else None, prog_name="sdic-run", standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the results has gone; without this, Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_INPUT
    except Exception as error:
        if settings.debug:
            traceback.print_exc()
        typer.echo(f"error: {explained(error)}", err=True)
        return BAD_INPUT


def explained(error: Exception) -> str:
    """One sentence for any error."""
    if isinstance(error, SdicError):
        return str(error)
    if hasattr(error, "format_message"):  # a usage error of the command line parser
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "sdic-run"
        return f"{error.format_message().rstrip('.')}; see: {command} --help"
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"the system refused access to{where or ' a file'}: {reason(error)}"
    if isinstance(error, MemoryError):
        return "not enough memory; use a smaller --batch or a smaller picture"
    return f"unexpected {type(error).__name__}: {error}; this is a fault of the program, and --debug shows where"


if __name__ == "__main__":
    raise SystemExit(main())
