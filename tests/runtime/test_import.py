from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# What `import edgecompile.runtime` may bring in beyond the standard library.
ALLOWED = {"numpy", "edgecompile"}

LIST_MODULES = """
import sys
import edgecompile.runtime
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""

MEASURE = """
import time, numpy, numpy.typing
start = time.process_time()  # not the wall clock: a busy machine is not a slow import
import edgecompile.runtime
print((time.process_time() - start) * 1000)
"""


def python(code: str, **environment: str) -> str:
    command, variables = [sys.executable, "-c", code], os.environ | environment
    return subprocess.run(
        command, env=variables, check=True, capture_output=True, text=True
    ).stdout


def test_importing_the_runtime_meets_nothing_but_the_standard_library_and_numpy() -> None:
    loaded = set(python(LIST_MODULES).split())
    before = set(python(LIST_MODULES.replace("import edgecompile.runtime", "")).split())
    assert {
        name
        for name in loaded - before - sys.stdlib_module_names
        if not name.startswith("_")
    } <= ALLOWED


def test_importing_the_runtime_takes_under_100_ms_beyond_numpy(tmp_path: Path) -> None:
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    assert min(float(python(MEASURE, **compiled)) for _ in range(4)) < 100  # the first compiles
