"""manifest.json: read as untrusted input, checked before anything else in a bundle is opened."""
from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from .audio import AudioInput
from .errors import BadInputError
from .pictures import PictureInput
from .sections import Section
from .speech import SpeechTokens

FORMAT = 1
NAME = "manifest.json"
CHUNK = 4 << 20  # bytes that one entry of a file's `chunks` covers
MANIFEST_LIMIT = 64 << 20  # bytes
FILE_LIMIT = 1 << 40  # bytes of one file
TASKS = (
    "embedding", "classification", "token-classification", "fill-mask", "text-ranking",
    "text-generation", "text2text-generation", "automatic-speech-recognition",
    "image-classification", "image-text-embedding", "module",
)  # fmt: skip
LARGEST_LOGIT_SCALE = 80  # its exponential is a float32
IMAGE_TEXT = "image-text-embedding"
ENCODED = ("text2text-generation", "automatic-speech-recognition")  # an encoder and a decoder
GENERATING = ("text-generation", *ENCODED)

# From format n to n + 1, in order; a test opens a kept bundle of each older format.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Names that mean something else on one of the systems a bundle may be copied to.
_UNSAFE = re.compile(r"[\x00-\x1f\\:*?\"<>|]")


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle; `chunks` are the SHA-256 of each 4 MiB."""

    path: str
    bytes: int
    sha256: str
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """What opens the model: `file` is its path in the bundle, `requires` a pip requirement.

    `graphs` are paths by name where the model is more than one file.
    """

    name: str
    requires: str
    tested: str
    file: str
    options: Mapping[str, Any]
    graphs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenizerInfo:
    """Where the tokenizer is; `max_length` in tokens, special ones included, 0 for no limit."""

    file: str
    template: str | None
    max_length: int
    bos_token: str | None
    eos_token: str | None
    tool_template: str | None = None  # for prompts with tools, where it is another one
    special_tokens: Mapping[str, str] = field(default_factory=dict)  # what templates may name
    mask_token: str | None = None  # what stands for a word to be filled in


@dataclass(frozen=True)
class PoolingInfo:
    """How token vectors became one: `dimension` is the length of the result."""

    mode: str
    normalize: bool
    dimension: int


@dataclass(frozen=True)
class GenerationInfo:
    """Where generation begins and ends; `defaults` are the source's own sampling options."""

    context_length: int
    stop_token_ids: tuple[int, ...]
    defaults: Mapping[str, Any]
    start_token_id: int | None = None  # of an encoder-decoder, whose answer begins after it


@dataclass(frozen=True)
class SimilarityInfo:
    """How vectors of texts and of pictures compare: e to the `logit_scale` times their cosine."""

    dimension: int
    logit_scale: float


@dataclass(frozen=True)
class Manifest:
    """A checked manifest; `data` is all of it, `digest` the SHA-256 of its bytes."""

    data: Mapping[str, Any]
    digest: str
    name: str
    task: str
    labels: tuple[str, ...]
    engine: Engine
    tokenizer: TokenizerInfo | None
    pooling: PoolingInfo | None
    generation: GenerationInfo | None
    files: tuple[FileEntry, ...]
    pictures: PictureInput | None = None  # how a picture is prepared
    audio: AudioInput | None = None  # how sound is prepared
    speech: SpeechTokens | None = None  # what the tokens of a model of speech mean
    similarity: SimilarityInfo | None = None  # of texts and pictures
    golden: str | None = None  # the file of golden inputs; bundles before 0.4 have none


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of the bundle in that folder, or a BadInputError (exit 5)."""
    path = bundle / NAME
    if path.is_symlink() or not path.is_file():
        raise BadInputError(str(path), "no such file", "a manifest", "name a bundle folder")
    size = path.stat().st_size
    if size > MANIFEST_LIMIT:
        raise BadInputError(str(path), f"{size} bytes", f"at most {MANIFEST_LIMIT}")
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(raw: bytes, where: str = NAME) -> Manifest:
    """Check the bytes of a manifest and type what the runtime needs of it."""
    data = _upgrade(_parse_json(raw, where), where)
    fields = _Fields(data, where)
    model, engine = fields.table("model"), fields.table("engine")
    task = model.text("task")
    if task not in TASKS:
        model.bad("task", task, " or ".join(TASKS))
    files = _files(fields)
    listed = {entry.path for entry in files}
    return Manifest(
        data=data,
        digest=hashlib.sha256(raw).hexdigest(),
        name=model.text("name"),
        task=task,
        labels=tuple(model.texts("labels")) if model.has("labels") else (),
        engine=Engine(
            engine.text("name"), engine.text("requires"), engine.text("tested"),
            engine.listed("file", listed),
            engine.table("options").data if engine.has("options") else {}, _graphs(engine, listed),
        ),
        tokenizer=_tokenizer(fields, listed),
        pooling=_pooling(fields),
        generation=_generation(fields),
        files=files,
        pictures=_pictures(fields),
        audio=AudioInput.from_manifest(fields.data["audio"]) if fields.has("audio") else None,
        speech=SpeechTokens.from_manifest(fields.data["speech"]) if fields.has("speech") else None,
        similarity=_similarity(fields),
        golden=fields.listed("golden", listed) if fields.has("golden") else None,
    )


def _parse_json(raw: bytes, where: str) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) != len(items):
            keys = [key for key, _ in items]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise BadInputError(where, f"keys given twice: {', '.join(twice)}", "each key once")
        return table

    def constant(name: str) -> NoReturn:
        raise BadInputError(where, name, "a finite number")

    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(where, str(error) or "nested too deep", "UTF-8 JSON") from error
    if not isinstance(data, dict):
        raise BadInputError(where, f"a {type(data).__name__}", "a JSON object")
    return data


def _upgrade(data: dict[str, Any], where: str) -> dict[str, Any]:
    version = data.get("format")
    if type(version) is not int or version < 1:
        raise BadInputError(where, f"format {version!r}", f"a number from 1 to {FORMAT}")
    if version > FORMAT:
        raise BadInputError(
            where, f"format {version}", f"at most {FORMAT}", "open it with a newer edgecompile"
        )
    for step in range(version, FORMAT):
        data = UPGRADES[step](data)
    return data


def check_path(path: str, where: str) -> None:
    """Refuse a path that is not plainly inside the bundle on every system."""
    parts = path.split("/")
    if _UNSAFE.search(path) or len(path) > 1024 or any(part in ("", ".", "..") for part in parts):
        raise BadInputError(where, f"path {path[:200]!r}", "a relative path inside the bundle")


def _files(fields: _Fields) -> tuple[FileEntry, ...]:
    entries = []
    seen: set[str] = set()
    for table in fields.tables("files"):
        path = table.text("path")
        check_path(path, table.where)
        # Two names that differ in case are one file on some systems.
        if path.casefold() in seen or path == NAME:
            table.bad("path", path, "listed once, the manifest never")
        seen.add(path.casefold())
        entries.append(_file(table, path))
    return tuple(entries)


def _file(table: _Fields, path: str) -> FileEntry:
    size = table.integer("bytes", FILE_LIMIT)
    chunks = tuple(table.texts("chunks"))
    entry = FileEntry(path, size, table.text("sha256"), chunks)
    expected = -(-size // CHUNK)
    if len(chunks) != expected and not (size == 0 and len(chunks) == 1):
        table.bad("chunks", f"{len(chunks)} for {size} bytes", f"{expected}")
    if any(not _SHA256.fullmatch(digest) for digest in (entry.sha256, *chunks)):
        table.bad("sha256", entry.sha256, "64 hexadecimal digits, in chunks too")
    if len(chunks) == 1 and chunks[0] != entry.sha256:
        table.bad("chunks", chunks[0], f"the file's own digest {entry.sha256}")
    return entry


def _graphs(engine: _Fields, listed: set[str]) -> dict[str, str]:
    if not engine.has("graphs"):
        return {}
    table = engine.table("graphs")
    return {name: table.listed(name, listed) for name in table.data}


def _tokenizer(fields: _Fields, listed: set[str]) -> TokenizerInfo | None:
    if not fields.has("tokenizer"):
        return None
    table = fields.table("tokenizer")
    return TokenizerInfo(
        table.listed("file", listed),
        table.listed("template", listed) if table.has("template") else None,
        table.integer("max_length", 1 << 31) if table.has("max_length") else 0,
        table.text("bos_token") if table.has("bos_token") else None,
        table.text("eos_token") if table.has("eos_token") else None,
        table.listed("tool_template", listed) if table.has("tool_template") else None,
        _special_tokens(table),
        table.text("mask_token") if table.has("mask_token") else None,
    )


def _special_tokens(table: _Fields) -> Mapping[str, str]:
    """Name -> text of all that a template may name: bos_token and eos_token, and others."""
    others = table.table("special_tokens") if table.has("special_tokens") else _Fields({}, "")
    found = {name: others.text(name) for name in others.data}
    ends = {name: table.text(name) for name in ("bos_token", "eos_token") if table.has(name)}
    return {**found, **ends}


def _pooling(fields: _Fields) -> PoolingInfo | None:
    if not fields.has("pooling"):
        return None
    table = fields.table("pooling")
    normalize = table.data.get("normalize")
    if type(normalize) is not bool:
        table.bad("normalize", normalize, "true or false")
    return PoolingInfo(table.text("mode"), bool(normalize), table.integer("dimension", 1 << 20))


def _pictures(fields: _Fields) -> PictureInput | None:
    if not fields.has("pictures"):
        return None
    return PictureInput.from_manifest(fields.table("pictures").data)


def _similarity(fields: _Fields) -> SimilarityInfo | None:
    if not fields.has("similarity"):
        return None
    keys = ("dimension", "logit_scale")
    table = Section(fields.data["similarity"], keys, f"{fields.where}: similarity")
    scale = table.number("logit_scale", -LARGEST_LOGIT_SCALE, LARGEST_LOGIT_SCALE)
    return SimilarityInfo(table.integer("dimension", 1, 1 << 20), scale)


def _generation(fields: _Fields) -> GenerationInfo | None:
    if not fields.has("generation"):
        return None
    table = fields.table("generation")
    stops = table.data.get("stop_token_ids")
    if not isinstance(stops, list) or any(type(stop) is not int for stop in stops):
        table.bad("stop_token_ids", stops, "a list of numbers")
    defaults = table.table("defaults").data if table.has("defaults") else {}
    key = "start_token_id"
    start = table.integer(key, 1 << 31) if table.has(key) else None
    context = table.integer("context_length", 1 << 31)
    return GenerationInfo(context, tuple(stops or ()), defaults, start)


class _Fields:
    """A JSON object whose fields are read by type; an error says where and what was found."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        self.data, self.where = data, where

    def bad(self, key: str, found: object, expected: str) -> NoReturn:
        raise BadInputError(f"{self.where}: {key}", f"{found!r:.200}", expected)

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def text(self, key: str) -> str:
        value = self.data.get(key)
        return value if isinstance(value, str) else self.bad(key, value, "a text")

    def integer(self, key: str, limit: int) -> int:
        value = self.data.get(key)
        if type(value) is not int or not 0 <= value <= limit:
            self.bad(key, value, f"a number from 0 to {limit}")
        return int(value)

    def texts(self, key: str) -> list[str]:
        value = self.data.get(key)
        if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
            self.bad(key, value, "a list of texts")
        return list(value)

    def table(self, key: str) -> _Fields:
        value = self.data.get(key)
        if not isinstance(value, dict):
            self.bad(key, value, "an object")
        return _Fields(value, f"{self.where}: {key}")

    def tables(self, key: str) -> list[_Fields]:
        value = self.data.get(key)
        if not isinstance(value, list) or any(not isinstance(item, dict) for item in value):
            self.bad(key, value, "a list of objects")
        return [_Fields(item, f"{self.where}: {key}[{i}]") for i, item in enumerate(value)]

    def listed(self, key: str, paths: set[str]) -> str:
        value = self.text(key)
        return value if value in paths else self.bad(key, value, "a path that `files` lists")
