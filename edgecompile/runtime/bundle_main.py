"""Run the bundle that this file is in: `python -I BUNDLE/runtime TEXT`."""
import hashlib
import os
import sys
from pathlib import Path

BUNDLE = Path(__file__).resolve().parent.parent


def bytecode_folder() -> str:
    """A folder of the user's cache, this manifest's own: nothing is added to a sealed bundle.

    (Python has cached this file itself by now, unless it was started with -B.)
    """
    own = os.environ.get("EDGECOMPILE_CACHE")
    cache = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256((BUNDLE / "manifest.json").read_bytes()).hexdigest()
    return str((cache if own else cache / "edgecompile") / "bytecode" / digest)


try:
    sys.pycache_prefix = bytecode_folder()
except (OSError, RuntimeError):  # no manifest (main says so) or no home
    sys.dont_write_bytecode = True
try:
    from edgecompile_runtime._main import main  # type: ignore[import-not-found]
except ModuleNotFoundError as error:
    way_out = "pip install numpy tokenizers jinja2, and the engine that manifest.json names"
    sys.stderr.write(f"error: {error.name}: not installed. To go on: {way_out}\n")
    raise SystemExit(4) from None
raise SystemExit(main(BUNDLE, sys.argv[1:]))
