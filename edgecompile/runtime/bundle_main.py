"""Run the bundle that this file is in: `python -I BUNDLE/runtime TEXT`."""
import sys
from pathlib import Path

# No bytecode of the runtime is written into a sealed bundle, and none that lies there is trusted.
# (Python has cached this file itself by now, unless it was started with -B.)
sys.dont_write_bytecode = True
sys.pycache_prefix = str(Path(__file__).parent / "no-bytecode")

from edgecompile_runtime._main import main  # type: ignore[import-not-found]  # noqa: E402

raise SystemExit(main(Path(__file__).resolve().parent.parent, sys.argv[1:]))
