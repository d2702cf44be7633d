"""The program: how a command is run, interrupted, and how it fails."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from toydiffusion import __version__
from toydiffusion.cli.flags import in_flags
from toydiffusion.cli.help import Program
from toydiffusion.errors import InputError, printable
from toydiffusion.jobs import WorkerError
from toydiffusion.training import TrainingError


def examples(*lines: str) -> str:
    """Return the end of a help text. The mark at the start keeps its lines as they are."""
    return "\n  ".join(["\b\nExample:" if len(lines) == 1 else "\b\nExamples:", *lines])


app = typer.Typer(
    help="Diffusion models for points in a few dimensions.",
    epilog=examples(
        "toydiffusion demo",
        "toydiffusion fit points.csv --label-column class --out model.safetensors",
        "toydiffusion sample model.safetensors -n 1000 --label 3 --out new.csv",
        "toydiffusion log-prob model.safetensors points.csv --out log_probs.csv",
        "toydiffusion report model.safetensors points.csv --out report.html",
        "toydiffusion distill model.safetensors --out quick.safetensors",
        "toydiffusion show model.safetensors",
        "toydiffusion lab model.safetensors",
    ),
    cls=Program,
    rich_markup_mode=None,
)

# The base of all usage errors, to which typer gives no public name.
_UsageError: Any = typer.BadParameter.__base__


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (None: the program's own arguments) and return its exit code.

    SIGTERM is taken like Ctrl-C, so that temporary files are removed and checkpoints kept.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _asked.clear()
    handlers = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        command: Any = typer.main.get_command(app)
        if "_TOYDIFFUSION_COMPLETE" in os.environ:  # the shell asks how a word can go on
            command.main(words, "toydiffusion")
        with command.make_context("toydiffusion", words or ["--help"], obj=words) as context:
            try:
                command.invoke(context)
            except InputError as error:
                given = command.commands[context.invoked_subcommand].params
                names = [one.name for one in given if one.param_type_name == "option"]
                raise InputError(in_flags(str(error), names)) from None
        if sys.stdout is not None:  # closed, as by >&-
            sys.stdout.flush()
    except typer.Exit as done:
        return done.exit_code
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    except _UsageError as error:
        where = "toydiffusion" if error.ctx is None else error.ctx.command_path
        return _fail(f"error: {error.format_message().rstrip('.')} (see {where} --help)", 2)
    except InputError as error:
        return _fail(f"error: {error}", 2)
    except BrokenPipeError:
        # Python flushes standard output once more as it ends, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _fail("error: out of memory", 1)
    except (OSError, TrainingError, WorkerError) as error:
        return _fail(f"error: {error}", 1)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


_asked: list[int] = []
"""The signals that asked to stop. A library may swallow a `KeyboardInterrupt` while it is imported."""


def _interrupt(number: int, frame: object) -> None:
    _asked.append(number)
    raise KeyboardInterrupt


def stop_if_asked() -> None:
    """Interrupt the command if a signal asked for it, whatever became of the first exception."""
    if _asked:
        raise KeyboardInterrupt


def warn(message: str) -> None:
    """Print a warning, as one line on standard error."""
    typer.echo(f"toydiffusion: warning: {message}", err=True)


def _fail(message: str, code: int) -> int:
    typer.echo(f"toydiffusion: {printable(' '.join(message.splitlines()))}", err=True)
    return code


@contextmanager
def warnings_told() -> Iterator[None]:
    """Print warnings of the block, once it is done, as those of the program."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        yield
    for one in found:
        warn(str(one.message))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"toydiffusion {__version__}")
        raise typer.Exit


@app.callback()
def _toydiffusion(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...
