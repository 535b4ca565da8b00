"""The options that most scripts have, and the line that says where numbers come from."""
from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path


def parser(doc: str | None, model: str) -> argparse.ArgumentParser:
    """--data, --work, --model (which one by default) and --threads; a script adds its own."""
    found = argparse.ArgumentParser(description=doc)
    found.add_argument("--data", type=Path, required=True)
    found.add_argument("--work", type=Path, required=True)
    found.add_argument("--model", default=model)
    found.add_argument("--threads", type=int, default=2)
    return found


def given(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line; from here on torch has as many threads as it asks for."""
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    return options


def machine() -> str:
    """Numbers without it mean little: processor, cores, Python; and versions, on a second line."""
    from edgecompile.host import cpu_level, cpu_name, usable_cores
    from edgecompile.train.run import versions

    here = f"{cpu_name()}, {cpu_level()}, {usable_cores()} cores, {platform.python_version()}"
    return f"{here}\n{json.dumps(versions())}"
