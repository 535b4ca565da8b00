"""Bundles: put together in a staging folder, hashed, then given their name in one step."""
from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import __version__, cache, facts, host, tokenizer
from edgecompile.backends import Export
from edgecompile.errors import UsageError
from edgecompile.model import Licence, Model
from edgecompile.numerics.schemes import float_digest, weights_digest
from edgecompile.passes import PassResult
from edgecompile.recipe import PassChoice
from edgecompile.runtime.manifest import CHUNK, FORMAT, NAME
from edgecompile.sources.speech import speech_tokens
from edgecompile.sources.towers import LOGIT_SCALE, TEXT_PROJECTION
from edgecompile.target import Target
from edgecompile.tasks import (
    IMAGE_TEXT,
    LABELLED,
    PAIRS,
    SPEECH,
    TASKS,
    has_tokenizer,
    takes_pictures,
)

RUNTIME = Path(__file__).parent / "runtime"
HASHED_AT_ONCE = 4  # tensors in memory
RENAME_EXCHANGE = 2  # linux/fs.h


@dataclass(frozen=True)
class Contents:
    """What goes into one bundle."""

    model: Model
    target: Target
    variant: str
    export: Export
    passes: tuple[tuple[PassChoice, PassResult], ...]
    data: Mapping[str, Any] | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)  # the user's own: name -> function


def assemble(contents: Contents, engine_files: Path, staging: Path) -> None:
    """Fill `staging` with a whole bundle; the manifest is written last."""
    shutil.copytree(engine_files, staging / "model", ignore=shutil.ignore_patterns("*.json"))
    section = tokenizer.ship(contents.model, staging)
    if section is not None:
        section["stock"] = contents.export.options.get("stock_tokenizer")
    _copy_licence(contents.model.licence, staging)
    _copy_runtime(staging)
    manifest = describe(contents, section)
    (staging / "README.md").write_text(readme(manifest), encoding="utf-8", newline="\n")
    write_manifest(staging, manifest)


def write_manifest(bundle: Path, manifest: dict[str, Any]) -> None:
    """Hash every file of the bundle into the manifest and write it."""
    paths = sorted(p for p in bundle.rglob("*") if p.is_file() and p != bundle / NAME)
    manifest["files"] = [file_entry(path, bundle) for path in paths]
    (bundle / NAME).write_text(tokenizer.dumps(manifest), encoding="utf-8", newline="\n")


def file_entry(path: Path, bundle: Path) -> dict[str, Any]:
    """`{path, bytes, sha256, chunks}` of one file."""
    whole, chunks = hashlib.sha256(), []
    with path.open("rb") as stream:
        while part := stream.read(CHUNK):
            whole.update(part)
            chunks.append(hashlib.sha256(part).hexdigest())
    return {
        "path": path.relative_to(bundle).as_posix(), "bytes": path.stat().st_size,
        "sha256": whole.hexdigest(), "chunks": chunks,
    }  # fmt: skip


def describe(contents: Contents, tokenizer_section: dict[str, Any] | None) -> dict[str, Any]:
    """The manifest but for its `files` (docs/bundle-format.md)."""
    model, export = contents.model, contents.export
    tensors = tensor_entries(model, export)
    floats = float_entries(model, export)
    return {
        "format": FORMAT,
        "edgecompile": __version__,
        "model": {
            "name": model.name, "task": model.task, "architecture": model.architecture,
            "parameters": model.parameters,
            "labels": tokenizer.labels(model.config) if model.task in LABELLED else [],
        },
        "source": {
            "kind": model.source.kind, "digest": model.source.digest,
            "notes": [*model.source.notes, *export.notes],
            **({"origin": model.origin.source.digest} if model.origin else {}),
            **_stages(model),
        },
        "licence": _licence_section(model.licence),
        "target": contents.target.name,
        "variant": contents.variant or None,
        "target_options": {
            "backend": contents.target.backend, "options": dict(contents.target.options),
            "context_length": contents.target.context_length,
            "budget": asdict(contents.target.budget), "device": asdict(contents.target.device),
        },
        "platform": contents.target.platform or None,
        "engine": {
            "name": export.engine, "requires": export.requires, "tested": export.tested,
            "file": f"model/{export.file}", "options": dict(export.options), **_graphs(export),
        },
        "inputs": [asdict(port) for port in export.inputs],
        "outputs": [asdict(port) for port in export.outputs],
        "tokenizer": tokenizer_section,
        "pooling": pooling_section(model),
        "pictures": model.pictures.as_manifest() if model.pictures else None,
        "audio": model.audio.as_manifest() if model.audio else None,
        "speech": speech_tokens(model).as_manifest() if model.task == SPEECH else None,
        "similarity": _similarity_section(model),
        "generation": _generation_section(contents),
        "passes": [_pass_section(choice, result) for choice, result in contents.passes],
        "tensors": tensors,
        "weights_digest": weights_digest((t["name"], t["sha256"]) for t in tensors),
        "floats": floats,
        "floats_digest": weights_digest((t["name"], t["sha256"]) for t in floats),
        "unused": dict(export.unused),
        "facts": facts.of_config(model.config),
        "data": contents.data,
        **({"metrics": dict(contents.metrics)} if contents.metrics else {}),
        "libraries": cache.library_versions(contents.target.backend),
        "cpu_level": host.cpu_level(),
    }  # fmt: skip


def _stages(model: Model) -> dict[str, Any]:
    """What stages left for the next ones to change, by which a check finds it again."""
    made = [{"stage": one.stage, "digest": one.digest} for one in model.reshaped]
    if model.rounded is not None:
        made.append({"stage": "quantize", "digest": model.rounded.digest})
    return {"stages": made} if made else {}


def _graphs(export: Export) -> dict[str, Any]:
    """The paths of a model of several files; nothing where it is one."""
    paths = {name: f"model/{file}" for name, file in export.graphs.items()}
    return {"graphs": paths} if paths else {}


def tensor_entries(model: Model, export: Export) -> list[dict[str, Any]]:
    """`tensors` of the manifest, from the codes that the quantize stage chose."""

    def entry(name: str) -> dict[str, Any]:
        tensor, shape = model.quantized[name], model.weights.infos[name].shape
        return {
            "name": name, "shape": list(shape), "scheme": tensor.scheme.name,
            "sha256": tensor.digest(name),
        }  # fmt: skip

    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        return list(pool.map(entry, sorted(set(model.quantized) - set(export.unused))))


def float_entries(model: Model, export: Export) -> list[dict[str, Any]]:
    """`floats` of the manifest: tensors without codes, as the engine's file should hold them."""
    entries = []
    for name in sorted(model.weights):
        if name in model.quantized or name in export.unused:
            continue
        if name in export.own:
            shape = list(model.weights.infos[name].shape)
            entries.append({"name": name, "shape": shape, **export.own[name]})
            continue
        dtype = export.float_dtypes.get(name, "float32")
        values = model.dense(name) + np.float32(export.shifted.get(name, 0.0))
        if dtype != "float32":
            values = values.astype(dtype).astype("float32")
        entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "dtype": dtype}
        if name in export.shifted:
            entry["added"] = export.shifted[name]
        entries.append(entry | {"sha256": float_digest(name, values, dtype)})
    return entries


def _pass_section(choice: PassChoice, result: PassResult) -> dict[str, Any]:
    return {
        "name": choice.name, "stage": choice.stage, "options": dict(choice.options),
        "changed": result.changed,
        "skipped": len(result.layers) - result.changed,
        "layers": [asdict(layer) for layer in result.layers],
    }  # fmt: skip


def pooling_section(model: Model) -> dict[str, Any] | None:
    """How token vectors become a text's; None where they do not."""
    if model.pooling is None:
        return None
    config = model.common_config
    dimension = int(config.get("hidden_size") or config.get("dim") or 0)
    return {
        "mode": model.pooling.mode, "normalize": model.pooling.normalize, "dimension": dimension
    }


def _similarity_section(model: Model) -> dict[str, Any] | None:
    """How vectors of texts and of pictures compare."""
    if model.task != IMAGE_TEXT:
        return None
    dimension, scale = model.weights.infos[TEXT_PROJECTION].shape[0], model.dense(LOGIT_SCALE)
    return {"dimension": dimension, "logit_scale": float(scale)}


def _generation_section(contents: Contents) -> dict[str, Any] | None:
    """As the source has it; the context is cut to what the target and the engine's file hold."""
    section = tokenizer.generation(contents.model)
    if section is not None:
        limits = contents.target.context_length, contents.export.options.get("context_length", 0)
        lengths = (int(section["context_length"]), *map(int, limits))
        section["context_length"] = min(length for length in lengths if length)
    return section


def _licence_section(licence: Licence) -> dict[str, Any]:
    files = sorted(f"licence/{file.name}" for file in licence.files)
    return {"id": licence.id, "use_policy": licence.use_policy, "files": files}


def _copy_licence(licence: Licence, staging: Path) -> None:
    for file in licence.files:
        (staging / "licence").mkdir(exist_ok=True)
        shutil.copyfile(file, staging / "licence" / file.name)


def _copy_runtime(staging: Path) -> None:
    package = staging / "runtime" / "edgecompile_runtime"
    package.mkdir(parents=True)
    for file in runtime_files():
        shutil.copyfile(file, package / file.name)
    shutil.copyfile(RUNTIME / "bundle_main.py", staging / "runtime" / "__main__.py")


def runtime_files() -> Iterable[Path]:
    """The modules that travel in every bundle."""
    return (f for f in sorted(RUNTIME.glob("*.py")) if f.name != "bundle_main.py")


READMES = {
    "embedding": 'vectors = session.embed(["first text", "second text"])  # float32 [2, dim]',
    "classification": 'answers = session.classify(["a text"])  # label -> probability',
    "token-classification": 'tokens = session.classify_tokens(["a text"])  # word, start, label',
    "fill-mask": 'words = session.fill([f"A {session.mask_token}."])  # the likeliest, a mask',
    "text-ranking": 'scores = session.score([("a question", "an answer")])  # float32 [1]',
    "text-generation": 'print(*session.generate([{"role": "user", "content": "Hello"}]), sep="")',
    "text2text-generation": 'print(session.translate(["a text"])[0])',
    "automatic-speech-recognition": 'print(session.transcribe("a.wav").text)',
    "image-classification": 'answers = session.classify_image(["a.png"])  # label -> probability',
    IMAGE_TEXT: 'shares = session.classify_image(["a.png"], ["a cat", "a dog"])',
    "module": "outputs = session.run(**arrays)  # names and shapes: manifest.json",
}


def readme(manifest: Mapping[str, Any]) -> str:
    """The bundle's README: what it is and the three lines that run it."""
    model, engine = manifest["model"], manifest["engine"]
    needs = "numpy" + " tokenizers jinja2" * has_tokenizer(model["task"])
    needs += " pillow" * takes_pictures(model["task"])
    needs += " torch" * (engine["name"] == "executorch")  # its bindings pass torch's tensors
    return f"""# {model["name"]} for {manifest["target"]}

{model["task"]}, {model["parameters"]:,} parameters ({model["architecture"]}), licence: \
{manifest["licence"]["id"]}. Engine: {engine["requires"]} (tested with {engine["tested"]}).

    pip install {needs} '{engine["requires"]}'

```python
import sys; sys.path.insert(0, "runtime")  # this folder's runtime/
from edgecompile_runtime import load
with load(".") as session: {READMES[model["task"]]}
```

Or from a shell: `python -I runtime {_shell(model["task"])}`. With edgecompile installed the second
line is `from edgecompile.runtime import load`. Every file's SHA-256 is in manifest.json and is
checked before the engine opens it.
"""


def _shell(task: str) -> str:
    """What a user gives the bundle's own command line."""
    if task == "fill-mask":
        return '"a text with the mask token"'
    second = ' "its second text"' if task in PAIRS else ""
    return {
        "text": '"some text"' + second, "picture": "a.png", "sound": "a.wav",
        "arrays": "--self-test", "text and picture": 'a.png "a cat" "a dog"',
    }[TASKS[task].takes]  # fmt: skip


def seal(staging: Path, final: Path, overwrite: bool) -> None:
    """Flush the whole bundle and give it its name; an old one is swapped out in the same step."""
    cache.sync(staging)
    if not final.exists():
        try:
            staging.rename(final)
            return
        except OSError:
            if not final.exists():
                raise
    if (final / NAME).is_file() and (final / NAME).read_bytes() == (staging / NAME).read_bytes():
        return  # another build of the same inputs was first: the same bytes
    if not overwrite:
        raise existing(final)
    _exchange(staging, final)


def existing(final: Path) -> UsageError:
    """The refusal to replace an output folder."""
    return UsageError(str(final), "exists already", way_out="add --overwrite, or another -o folder")


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders atomically where the system can (Linux), else by two renames."""
    libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if libc is not None and hasattr(libc, "renameat2"):
        here = -100  # AT_FDCWD
        names = os.fsencode(new), os.fsencode(old)
        if libc.renameat2(here, names[0], here, names[1], RENAME_EXCHANGE) == 0:
            return
    aside = new.with_name(f"{new.name}.old")
    old.rename(aside)
    new.rename(old)
