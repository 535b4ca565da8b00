from __future__ import annotations

import subprocess
import sys

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


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_importing_the_runtime_meets_nothing_but_the_standard_library_and_numpy() -> None:
    loaded = set(python(LIST_MODULES).split())
    before = set(python(LIST_MODULES.replace("import edgecompile.runtime", "")).split())
    assert {
        name
        for name in loaded - before - sys.stdlib_module_names
        if not name.startswith("_")
    } <= ALLOWED


def test_importing_the_runtime_takes_under_100_ms_beyond_numpy() -> None:
    assert min(float(python(MEASURE)) for _ in range(3)) < 100
