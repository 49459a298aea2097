"""`sdic-run`, and what every command line of this distribution does around its commands."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from sdic_runtime.cli.options import Debug
from sdic_runtime.cli.signals import BROKEN_PIPE, SIGNALLED, ending_well, hold_standard_streams, reader_gone, silence
from sdic_runtime.errors import MissingExtraError, PictureWarning, SdicError, printable
from sdic_runtime.files import TRUST_VARIABLE, reason
from sdic_runtime.progress import quiet_decoders, say

BAD_INPUT = 2
INTERRUPTED = 130
EXTRAS = {"sdic-export": "export", "sdic-train": "train"}  # command line -> the extra that brings what it imports
TRUST_HELP = "Let a bundle of someone known run any operator, and auto its engines."
COMMANDS = ("invert", "edit", "sweep", "studio", "video", "directions", "batch", "compare", "bench", "doctor", "download", "demo")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print what the library says of a picture as commands print their notices, each once."""
    with warnings.catch_warnings():
        quiet_decoders()
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, PictureWarning):
                say(printable(str(message)), error=True)
            else:
                shown(message, category, *place)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def command_line(name: str, description: str, example: str) -> typer.Typer:
    """A command line without commands yet, for `run`."""
    app = typer.Typer(name=name, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(help=description, epilog=f"Example: {example}", no_args_is_help=True)(_options)
    return app


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a check failed, 2 bad input or an error, 130 interrupted, and as shells count
    them 143 after SIGTERM, 129 after SIGHUP, 141 where nobody reads the results any more."""
    hold_standard_streams()
    streams = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115 - None: it was closed at the start
    sys.stdout, sys.stderr = streams
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # no name of a file is worth a failure to print it
    settings, name = {"debug": False}, str(app.info.name)  # what holds for this call, whichever command runs
    with ending_well() as heard, plain_warnings():
        try:
            code = app(args=list(arguments) if arguments is not None else None, prog_name=name, standalone_mode=False, obj=settings)
            sys.stdout.flush()
            return heard.code(INTERRUPTED) if code == INTERRUPTED else code if isinstance(code, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            return heard.code(INTERRUPTED)
        except (Exception, SystemExit) as raised:
            # The parser of the command line makes an exit of a broken pipe.
            error = raised.__context__ if isinstance(raised, SystemExit) else raised
            if not isinstance(error, Exception):
                raise
            gone = [stream for stream in (sys.stdout, sys.stderr) if reader_gone(stream)]
            if gone and isinstance(error, BrokenPipeError):
                for stream in gone:
                    silence(stream)
                return SIGNALLED + BROKEN_PIPE
            if heard.number:  # a library made an error of the interruption
                return heard.code(INTERRUPTED)
            if settings["debug"]:
                traceback.print_exc()
            try:
                typer.echo(f"error: {printable(_explained(error, name))}", err=True)
            except OSError:  # the disk that messages go to is full
                silence(sys.stderr)
            return BAD_INPUT


def main(arguments: Sequence[str] | None = None) -> int:
    """`sdic-run`; see `run`."""
    description = "Invert pictures into a generator's latent space and edit them: SDIC bundles on ONNX Runtime, TensorRT or PyTorch."
    app = command_line("sdic-run", description, "sdic-run edit portrait.png --edit smile:2")
    for name in COMMANDS:
        app.command(name)(importlib.import_module(f"sdic_runtime.cli.{name}").run)
    return run(app, arguments)


def _remember_trust(value: bool) -> bool:
    """For this process and those that it starts."""
    if value:
        os.environ[TRUST_VARIABLE] = "1"
    return value


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sdic-toolkit {version('sdic-toolkit')}")
        raise typer.Exit


def _options(
    debug: Debug = False,
    trust: Annotated[bool, typer.Option("--trust", callback=_remember_trust, help=TRUST_HELP)] = False,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Hold the options that stand before a command; their callbacks do all there is to do."""


def _explained(error: Exception, program: str) -> str:
    """One sentence for any error."""
    if isinstance(error, SdicError):
        return str(error)
    if hasattr(error, "format_message"):  # a usage error of the command line parser
        command = getattr(getattr(error, "ctx", None), "command_path", program)
        return f"{' '.join(error.format_message().split()).rstrip('.,')}; see: {command} --help"
    if isinstance(error, ModuleNotFoundError) and error.name and program in EXTRAS:
        return str(MissingExtraError(error.name.partition(".")[0], EXTRAS[program], program))
    if isinstance(error, OSError):
        file = f" {error.filename}" if error.filename else ""
        if error.errno == errno.ENOSPC:
            return f"no space left{file and f' for{file}'}; make room, or choose another place"
        return f"the system refused access to{file or ' a file'}: {reason(error)}"
    if isinstance(error, MemoryError):
        return "not enough memory; use a smaller --batch or a smaller picture"
    return f"internal error: {type(error).__name__}: {error}; rerun with --debug and report it"


if __name__ == "__main__":
    raise SystemExit(main())
