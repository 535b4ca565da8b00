"""What `plan` says of a build beside what the build then took: size, peak memory, seconds.

    python benchmarks/plan_against_facts.py [MODEL:TARGET ...]

Each build runs in its own process with an empty cache; memory is the peak resident set of that
process (its children's, the checked engine among them, is told apart).
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgecompile import cache, host
from edgecompile.plan import Request, plan

DEFAULT = tuple(
    f"{model}:{target}"
    for model in ("all-minilm-l6-v2", "smollm2-135m-instruct")
    for target in ("cpu", "gguf")
)
CHILD = """
import json, resource, sys
from edgecompile.cli import main
try:
    main()
except SystemExit as stop:
    print(stop.code, file=sys.stderr)
peak = {k: resource.getrusage(getattr(resource, k)).ru_maxrss / 1024
        for k in ("RUSAGE_SELF", "RUSAGE_CHILDREN")}
open(__OUT__, "w").write(json.dumps(peak))
"""


def facts(model: str, target: str) -> dict[str, Any]:
    """Build once with an empty cache; size in bytes, memory in MiB, seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        note, out = Path(scratch) / "peak.json", Path(scratch) / "dist"
        environment = {**os.environ, "EDGECOMPILE_CACHE": f"{scratch}/cache"}
        script = CHILD.replace("__OUT__", repr(str(note)))
        words = ["-q", "build", model, "--target", target, "-o", str(out), "--format", "json"]
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", script, *words], env=environment, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        peak = json.loads(note.read_text())
        (bundle,) = [p for p in out.iterdir() if not p.name.endswith(".report")]
        (built,) = json.loads(run.stdout)
        return {
            "size": cache.tree_bytes(bundle), "seconds": seconds,
            "memory": peak["RUSAGE_SELF"], "children": peak["RUSAGE_CHILDREN"],
            "stages": built["seconds"],
        }  # fmt: skip


def main() -> None:
    """Print one line a build, each figure as planned, as found, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("builds", nargs="*", default=DEFAULT, metavar="MODEL:TARGET")
    here = host.host()
    print(f"{here.cpu}, {host.usable_cores()} cores; {cache.library_versions()}")
    for build in parser.parse_args().builds:
        model, _, target = build.rpartition(":")
        nowhere = Path(tempfile.gettempdir()) / "none"
        planned = plan(Request(model, (target,), nowhere)).targets[0]
        found = facts(model, target)
        pairs = {
            "size MB": (planned.estimate.size_bytes / 1e6, found["size"] / 1e6),
            "memory MiB": (planned.estimate.build_mib, found["memory"]),
            "seconds": (planned.estimate.seconds, found["seconds"]),
        }
        print(f"\n{build}  (largest child {found['children']:.0f} MiB; {_stages(found)})")
        for name, (plan_says, fact) in pairs.items():
            ratio = plan_says / fact
            print(f"  {name:<11} plan {plan_says:9.1f}   found {fact:9.1f}   {ratio:.3f}")


def _stages(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["stages"].items())


if __name__ == "__main__":
    main()
