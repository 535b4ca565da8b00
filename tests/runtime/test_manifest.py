from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.runtime.errors import BadInputError
from edgecompile.runtime.manifest import CHUNK, Manifest, check_path, parse_manifest, read_manifest

DIGEST = "a" * 64


def entry(**changes: Any) -> dict[str, Any]:
    file = {"path": "model/model.onnx", "bytes": 3, "sha256": DIGEST, "chunks": [DIGEST]}
    return {**file, **changes}


def document(**changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "model": {"name": "tiny", "task": "module", "labels": None},
        "engine": {
            "name": "onnxruntime", "requires": "onnxruntime>=1", "tested": "1",
            "file": "model/model.onnx", "options": {},
        },
        "tokenizer": None,
        "pooling": None,
        "generation": None,
        "files": [entry()],
        **changes,
    }


def parse(**changes: Any) -> Manifest:
    return parse_manifest(json.dumps(document(**changes)).encode())


def test_a_manifest_gives_what_the_runtime_needs() -> None:
    manifest = parse(generation={"context_length": 8, "stop_token_ids": [2], "defaults": {}})
    assert manifest.engine.file == "model/model.onnx"
    assert manifest.generation is not None
    assert manifest.generation.stop_token_ids == (2,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format 2"),
        ({"format": "1"}, "format '1'"),
        ({"format": True}, "format True"),
        ({"model": {"name": "x", "task": "translation"}}, "translation"),
        ({"model": None}, "None"),
        ({"engine": {"name": "onnxruntime", "requires": "", "tested": "", "file": "x"}}, "'x'"),
        ({"files": [entry(path="../x")]}, "../x"),
        ({"files": [entry(path="/etc/passwd")]}, "/etc/passwd"),
        ({"files": [entry(path="c:x")]}, "c:x"),
        ({"files": [entry(path="a\\b")]}, "a\\\\b"),
        ({"files": [entry(path="manifest.json")]}, "manifest.json"),
        ({"files": [entry(), entry(path="model/MODEL.onnx")]}, "MODEL.onnx"),
        ({"files": [entry(bytes=-1)]}, "-1"),
        ({"files": [entry(bytes=1 << 60)]}, str(1 << 60)),
        ({"files": [entry(bytes=CHUNK + 1)]}, "1 for"),
        ({"files": [entry(sha256="b" * 64)]}, DIGEST),
        ({"files": [entry(sha256="A" * 64)]}, "AAA"),
        ({"files": "all"}, "all"),
        ({"generation": {"context_length": 8, "stop_token_ids": ["x"]}}, "['x']"),
        ({"generation": {"context_length": -8, "stop_token_ids": []}}, "-8"),
        ({"pooling": {"mode": "mean", "normalize": 1, "dimension": 3}}, "1"),
    ],
)
def test_a_wrong_value_is_shown_and_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse(**changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"format": 1, "format": 1}', "format"),
        (b'{"format": NaN}', "NaN"),
        (b"[1]", "list"),
        (b"{", "Expecting"),
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_file_that_is_not_plain_json_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_manifest(raw)
    assert said in str(caught.value)


def test_a_newer_format_says_to_open_it_with_a_newer_release() -> None:
    with pytest.raises(BadInputError, match="newer edgecompile"):
        parse(format=99)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"manifest\.json"):
        read_manifest(tmp_path)


@given(st.text())
def test_no_accepted_path_leaves_the_bundle(path: str) -> None:
    try:
        check_path(path, "here")
    except BadInputError:
        return
    base = Path("/bundle")
    assert (base / path).resolve().is_relative_to(base)
    assert not Path(path).is_absolute()


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        parse_manifest(raw)
    except BadInputError:
        return
    raise AssertionError(raw)


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(st.sampled_from(sorted(document())), SCALARS | st.lists(SCALARS) | st.dictionaries(
    st.sampled_from(["name", "file", "task", "path", "defaults", "max_length"]), SCALARS))
def test_any_section_may_be_anything_without_a_traceback(section: str, value: object) -> None:
    with contextlib.suppress(BadInputError):
        parse(**{section: value})
