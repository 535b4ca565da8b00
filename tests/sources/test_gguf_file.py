"""The GGUF reader: whatever the bytes are, the answer is a checked header or a plain complaint."""
from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecompile.errors import BadInputError, EdgecompileError, UnsupportedError
from edgecompile.sources.gguf import describe
from edgecompile.sources.gguf_file import read_gguf


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A complete two-tensor file of about 600 bytes."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_tensor("token_embd.weight", np.ones((2, 32), np.float32))
    blocks = np.zeros((2, 18), np.uint8)
    writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return path


def test_it_agrees_with_the_gguf_packages_reader(small: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, small)
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        assert ours.tensors[tensor.name].offset == tensor.data_offset
        assert ours.tensors[tensor.name].shape == tuple(int(n) for n in tensor.shape[::-1])
        raw = ours.raw(ours.tensors[tensor.name])
        assert np.array_equal(raw.ravel(), tensor.data.view("u1").ravel())
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert dict(ours.metadata) == fields


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_is_bad_input(
    small: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    # the file ends with at most 31 bytes of padding, which nothing needs
    cut = data.draw(st.integers(0, len(small) - 32))
    with pytest.raises(BadInputError):
        read_gguf(write(tmp_path, small[:cut]))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400
)
@given(data=st.data())
def test_flipped_bytes_give_a_header_or_an_error_of_ours(
    small: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    damaged = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(small) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path, bytes(damaged))
    try:
        file = read_gguf(path)
        assert all(t.offset + t.nbytes <= len(small) for t in file.tensors.values())
        describe(path)
    except EdgecompileError as error:
        assert str(path) in str(error)  # noqa: PT017 (no error is a good outcome too)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"GGML", "starts with b'GGML'"),
        (4, struct.pack("<I", 1), "GGUF version 1"),
        (4, struct.pack(">I", 3), "GGUF version 50331648"),
        (8, struct.pack("<Q", 2**60), "complete file|not UTF-8|dimensions|type number"),
        (16, struct.pack("<Q", 2**60), "complete file|value type|not UTF-8"),
        (24, struct.pack("<Q", 2**63), "needs 9223372036854775808 bytes"),
    ],
)
def test_absurd_headers_are_refused_before_anything_is_allocated(
    small: bytes, tmp_path: Path, at: int, value: bytes, message: str
) -> None:
    damaged = small[:at] + value + small[at + len(value) :]
    with pytest.raises((BadInputError, UnsupportedError), match=message):
        read_gguf(write(tmp_path, damaged))


def test_a_tensor_beyond_the_end_is_named(small: bytes, tmp_path: Path) -> None:
    name = b"token_embd.weight"
    at = small.index(name) + len(name) + 4  # after the number of dimensions
    damaged = small[:at] + struct.pack("<QQ", 2**40, 2**40) + small[at + 16 :]
    with pytest.raises(BadInputError, match=r"'token_embd.weight' .* ends at byte"):
        read_gguf(write(tmp_path, damaged))
