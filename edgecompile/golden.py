"""Golden inputs of a sealed bundle: asked of its own engine, on one thread, before the check."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgecompile import cache, host, tokenizer
from edgecompile.bundle import file_entry
from edgecompile.checks.device import is_for_gpu
from edgecompile.checks.limits import EXPORT, HALF, activation_column
from edgecompile.errors import EdgecompileError, MissingLibraryError
from edgecompile.model import Model
from edgecompile.runtime.golden import FORMAT, NAME, STEPS, TEXTS
from edgecompile.runtime.manifest import NAME as MANIFEST
from edgecompile.runtime.providers import CPU
from edgecompile.runtime.worker_client import Worker
from edgecompile.sources.towers import TEXT_PROJECTION
from edgecompile.tasks import IMAGE_TEXT, LABELLED, generates

# A single step may stray further than the mean over a text (docs/decisions/0006-golden-inputs.md).
STEP = 10.0
# At most, a number a line: `plan` counts the file into the bundle's size.
ID_BYTES, VALUE_BYTES, STEP_BYTES, CASE_BYTES = 16, 22, 1_000, 200


def add(bundle: Path) -> None:
    """Write golden.json into the staged bundle and list it in the manifest.

    Where the engine cannot answer, the bundle gets none and a note says why; the check then finds
    the same fault.
    """
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    if manifest["model"]["task"] == "module":
        return
    try:
        cases = _observed(bundle, manifest)
    except MissingLibraryError:
        raise
    except EdgecompileError as error:
        manifest["source"]["notes"].append(f"no golden inputs: {error.found}")
        cases = []
    if cases:
        table = {"format": FORMAT, "tolerance": tolerance(manifest), "cases": cases}
        (bundle / NAME).write_text(tokenizer.dumps(table), encoding="utf-8", newline="\n")
        entries = [*manifest["files"], file_entry(bundle / NAME, bundle)]
        manifest["files"] = sorted(entries, key=lambda entry: str(entry["path"]))
        manifest["golden"] = NAME
    (bundle / MANIFEST).write_text(tokenizer.dumps(manifest), encoding="utf-8", newline="\n")


def _observed(bundle: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What the bundle answers; the same bytes in the same engine on this processor: asked once.

    A GPU's bundle is asked on the CPU, by name: its bytes do not depend on which device is here.
    """
    here, backend = host.host(), str(manifest["target_options"]["backend"])
    provider = CPU if is_for_gpu(manifest) else ""
    key = cache.key(
        "golden", modules=(__name__,), manifest=(bundle / MANIFEST).read_text(encoding="utf-8"),
        machine=[here.cpu, here.level], engine=cache.library_versions(backend),
    )  # fmt: skip

    def ask(folder: Path) -> None:
        with Worker(bundle, verify="never", threads=1, provider=provider) as worker:
            text = json.dumps(worker.observe())
        (folder / NAME).write_text(text, encoding="utf-8")

    folder, _ = cache.stage("golden", key, ask)
    found: list[dict[str, Any]] = json.loads((folder / NAME).read_text(encoding="utf-8"))
    return found


def most_bytes(model: Model) -> int:
    """The largest size of golden.json, from the config: every byte of text may be a token."""
    if model.task == "module":
        return 0
    sizes = [len(text.encode()) for text in TEXTS]
    if model.task == IMAGE_TEXT:
        vector = VALUE_BYTES * model.weights.infos[TEXT_PROJECTION].shape[0]
        return sum(CASE_BYTES + (ID_BYTES + 1) * size + vector for size in (*sizes, *sizes))
    if model.task == "text-ranking":  # each text with all of them
        return sum(CASE_BYTES + (ID_BYTES + 1) * (3 * size + sum(sizes)) for size in sizes)
    return sum(CASE_BYTES + (ID_BYTES + 1) * size + _answer_bytes(model, size) for size in sizes)


def _answer_bytes(model: Model, tokens: int) -> int:
    """A case's answer, of a text of at most so many tokens and two special ones."""
    if generates(model.task) or model.task == "fill-mask":
        return STEPS * STEP_BYTES
    width = len(tokenizer.labels(model.config))
    if model.task == "token-classification":
        return VALUE_BYTES * width * (tokens + 2)
    row = width if model.task in LABELLED else int(model.common_config["hidden_size"])
    return VALUE_BYTES * row


def tolerance(manifest: dict[str, Any]) -> float:
    """How far another engine build or processor may stray: as the export may from its codes."""
    column = activation_column(manifest)
    if generates(manifest["model"]["task"]) or manifest["model"]["task"] == "fill-mask":
        # The same rounding on both sides: a wide range costs no more here than blocks do.
        column = column if column == HALF else min(column, 1)
        return STEP * EXPORT["export_kl_mean"][0][column]
    return 1 - EXPORT["export_cosine_min"][0][column]
