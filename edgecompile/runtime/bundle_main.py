"""Run the bundle that this file is in: `python -I BUNDLE/runtime TEXT`."""
import sys
from pathlib import Path

# No bytecode of the runtime is written into a sealed bundle, and none that lies there is trusted.
# (Python has cached this file itself by now, unless it was started with -B.)
sys.dont_write_bytecode = True
sys.pycache_prefix = str(Path(__file__).parent / "no-bytecode")

try:
    from edgecompile_runtime._main import main  # type: ignore[import-not-found]
except ModuleNotFoundError as error:
    way_out = "pip install numpy tokenizers jinja2, and the engine that manifest.json names"
    sys.stderr.write(f"error: {error.name}: not installed. To go on: {way_out}\n")
    raise SystemExit(4) from None

raise SystemExit(main(Path(__file__).resolve().parent.parent, sys.argv[1:]))
