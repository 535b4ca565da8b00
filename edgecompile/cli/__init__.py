"""The command line: each command is one thin function over the library."""
from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from pathlib import Path

import click

from edgecompile import __version__
from edgecompile.errors import INTERRUPTED, EdgecompileError

# Telemetry off and no network, before any library reads the environment.
OFFLINE = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error",
}  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgecompile")
@click.option("-v", "--verbose", is_flag=True, help="Show a traceback with every error.")
@click.option("-q", "--quiet", is_flag=True, help="Print results and errors only, no progress.")
@click.option("--log-file", type=click.Path(path_type=Path), help="Append details to this file.")
@click.pass_context
def cli(context: click.Context, verbose: bool, quiet: bool, log_file: Path | None) -> None:
    """Turn a trained model into a bundle for a device, proven on the bytes that ship."""
    context.obj = {"verbose": verbose, "quiet": quiet}
    if log_file:
        form = "%(asctime)s %(message)s"
        logging.basicConfig(filename=log_file, level=logging.DEBUG, format=form)


def main() -> None:
    """Entry point: every error becomes a message and design.md's exit code, never a traceback."""
    os.environ.update(OFFLINE)
    signal.signal(signal.SIGTERM, _terminated)  # so that folders are tidied and children end
    logging.getLogger("edgecompile").addHandler(logging.NullHandler())  # silent without --log-file
    try:
        cli(standalone_mode=False, prog_name="edgecompile")
    except click.exceptions.Abort:  # click's word for Ctrl-C
        _interrupted()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except BaseException as error:  # the last place where an error can be told
        sys.exit(_report(error))


def _interrupted() -> None:
    """Leave with 130 at once: Python itself would end by the signal where it hit an `exec`."""
    click.echo("interrupted: finished stages are kept; run the same command to go on", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _terminated(_signal: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _report(error: BaseException) -> int:
    """Print the error for a person; returns the exit code."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    logging.getLogger("edgecompile").error("".join(traceback.format_exception(error)))
    if "-v" in sys.argv or "--verbose" in sys.argv:
        traceback.print_exception(error)
    known = _as_known(error)
    if known is not None:
        click.echo(f"error: {known}", err=True)
        return known.exit_code
    click.echo(
        f"error: a defect in edgecompile: {type(error).__name__}: {error}. To go on: run again "
        "with -v and report the traceback.",
        err=True,
    )
    return 1


def _as_known(error: BaseException) -> EdgecompileError | None:
    """Our own errors, and the system's that have an exit code: a full disk, no memory."""
    from edgecompile import cache
    from edgecompile.errors import MissingLibraryError, ResourceError, UsageError

    if isinstance(error, EdgecompileError):
        return error
    if isinstance(error, MemoryError):
        way_out = "close programs or use a larger machine"
        return ResourceError("memory", "none left", way_out=way_out)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return MissingLibraryError(
            "library", f"{error.name} is not installed", way_out="pip install 'edgecompile[all]'"
        )
    if isinstance(error, OSError):
        full = cache.disk_error(error, Path.cwd())
        if isinstance(full, EdgecompileError):
            return full
        place = error.filename or "system"
        return UsageError(str(place), error.strerror or str(error), "a path that can be used")
    return None


from edgecompile.cli import (  # noqa: E402 - they register
    build,  # noqa: F401
    compare,  # noqa: F401
    compress,  # noqa: F401
    explain,  # noqa: F401
    look,  # noqa: F401
    train,  # noqa: F401
    use,  # noqa: F401
)
