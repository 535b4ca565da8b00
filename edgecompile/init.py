"""`edgecompile init`: a recipe for a model of the user's own."""
from __future__ import annotations

import json
import os
from pathlib import Path

from edgecompile import sources
from edgecompile.errors import UsageError
from edgecompile.recipe import default_quantize


def write_recipe(model: str, name: str = "", task: str = "") -> Path:
    """Write models/<name>/recipe.toml after reading the model's headers; never replaces one."""
    ref = sources.resolve(model, task=task)
    described = sources.describe(ref)
    path = Path("models") / (name or ref.name) / "recipe.toml"
    if path.exists():
        raise UsageError(str(path), "exists already", way_out="edit it, or choose --name")
    place = f"model = {json.dumps(ref.place)}"
    if ref.kind != "torch":
        relative = os.path.relpath(ref.place, path.parent)
        place = f"path = {json.dumps(Path(relative).as_posix())}"
    quantize = default_quantize(described.task, described.parameters, described.architecture)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'description = "{described.architecture}, {described.parameters:,} parameters"\n'
        f'task = "{described.task}"\n\n[source]\n{place}\n\n'
        f'[quantize]\nmethod = "{quantize["method"]}"\nbits = {quantize["bits"]}  # 4 or 8\n\n'
        '# [data]  # your own text: JSONL, CSV or paragraphs; calibration and check stay apart\n'
        '# file = "texts.jsonl"\n# text = "text"\n# label = "label"\n\n'
        '# [check.limits]  # stricter than the rule, for example\n# cosine_mean = 0.998\n',
        encoding="utf-8",
    )
    return path
