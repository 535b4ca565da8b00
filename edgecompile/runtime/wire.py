r"""How `python -I BUNDLE/runtime --worker` talks: framed requests on stdin, replies on stdout.

A message is one line of UTF-8 JSON (the header) ending in `\n`, followed by the bytes of each array
that the header lists under `arrays`, in that order: little-endian, row-major, no padding.

    {"op": "run", "arrays": [{"name": "x", "dtype": "float32", "shape": [1, 4]}]}\n<16 bytes>

A reply has `ok` (bool), `more` (bool: further replies to the same request follow) and the fields of
the operation. A failed request is answered once with `ok` false and `error`: `{class, where, found,
expected, way_out}`; the worker goes on to the next request. The first message is the worker's own:
the reply to an unasked `hello`, or the error that kept the bundle from opening (then it exits).

| op | request | reply |
|---|---|---|
| `hello` | | `manifest_sha256` `task` `engine` `versions` `threads` `load_seconds` `pid` |
| `tokenize` | `texts` | `ids`: a list a text |
| `render` | `cases`: what `Session.render` takes | `prompts`: `text` and `ids`, or `refused` |
| `logits` | array `ids` int64 [tokens] (and `source`) | replies: array `logits` [<=128, vocab] |
| `embed` | `texts` or `ids` (a list a text), `normalize` | array `embeddings` [n, dim] |
| `classify` | `texts` | `probabilities`: an object a text |
| `prepare` | pictures uint8 [h, w, 3] under any names | array `pixels` [n, 3, height, width] |
| `look` | array `pixels` | array `rows` [n, width]: class scores, vectors |
| `run` | arrays by input name | arrays by output name |
| `generate` | array `ids`, `new_tokens` | `tokens` `token_ms` `first_token_ms` `tokens_per_second`|
| `peak_memory` | `reset` (bool) | `mib` (VmHWM, read before the reset) or null off Linux |
| `close` | | `ok`, then the worker exits with 0 |
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .errors import BadInputError, EdgecompileError

Arrays = Mapping[str, NDArray[Any]]

HEADER_LIMIT = 64 << 20  # bytes; texts and ids travel in headers
ARRAY_LIMIT = 8 << 30  # bytes of one array
DTYPES = frozenset(
    {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
    | {"float16", "float32", "float64"}
)


def send(stream: IO[bytes], header: Mapping[str, Any], arrays: Arrays | None = None) -> None:
    """Write one message and flush; `arrays` go out by name, in the mapping's order."""
    listed = []
    blobs = []
    for name, array in (arrays or {}).items():
        if array.dtype.name not in DTYPES:
            raise BadInputError(f"array {name!r}", f"dtype {array.dtype}", " ".join(sorted(DTYPES)))
        blobs.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")))
        listed.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)})
    line = json.dumps({**header, "arrays": listed}, separators=(",", ":"))
    stream.write(line.encode() + b"\n")
    for blob in blobs:
        stream.write(blob.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Read one message: its header and its arrays by name; None at the end of the stream."""
    line = stream.readline(HEADER_LIMIT)
    if not line:
        return None
    if not line.endswith(b"\n"):
        raise BadInputError("wire", f"a header of {len(line)} bytes without an end", "one line")
    try:
        header = json.loads(line)
    except ValueError as error:
        raise BadInputError("wire", f"{line[:60]!r} ({error})", "a JSON object") from error
    try:
        listed = header.pop("arrays", ())
        return header, {str(entry["name"]): _read_array(stream, entry) for entry in listed}
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInputError("wire", f"{line[:60]!r} ({error!r})", "a known header") from error


def _read_array(stream: IO[bytes], entry: Mapping[str, Any]) -> NDArray[Any]:
    shape = tuple(entry["shape"])
    if entry["dtype"] not in DTYPES or any(type(size) is not int or size < 0 for size in shape):
        raise BadInputError("wire", f"an array {entry!r:.100}", "a known dtype, sizes")
    dtype = np.dtype(entry["dtype"]).newbyteorder("<")
    count = 1
    for size in shape:  # not np.prod: it wraps around at 2^63
        count *= size
    if count * dtype.itemsize > ARRAY_LIMIT:
        raise BadInputError("wire", f"an array {shape} of {dtype}", f"at most {ARRAY_LIMIT} bytes")
    array = np.empty(shape, dtype)
    view = array.reshape(-1).view(np.uint8).data
    while view:
        read = stream.readinto(view)  # type: ignore[attr-defined]
        if not read:
            raise BadInputError("wire", f"the stream ended {len(view)} bytes early", "whole arrays")
        view = view[read:]
    return array


def error_fields(error: EdgecompileError) -> dict[str, str]:
    """The `error` object of a failed reply."""
    return {
        "class": type(error).__name__,
        "where": error.where,
        "found": error.found,
        "expected": error.expected,
        "way_out": error.way_out,
    }


def raise_error(fields: Mapping[str, str]) -> NoReturn:
    """Raise what `error_fields` described, as the same class."""
    from . import errors

    kind = getattr(errors, fields["class"], EdgecompileError)
    raise kind(fields["where"], fields["found"], fields["expected"], fields["way_out"])
