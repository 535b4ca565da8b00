"""Block formats: the gguf package and llama.cpp read exactly the codes and scales that went in."""
from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.backends import gguf_blocks, packing
from edgecompile.errors import UnsupportedError
from edgecompile.numerics.schemes import QuantizedTensor, Scheme, representable_scale
from edgecompile.sources.gguf_rows import interleaved, restored

SCHEMES = [Scheme(4, 32), Scheme(8, 32), Scheme(8, 0)]


def random_tensor(seed: int, scheme: Scheme, rows: int, columns: int) -> QuantizedTensor:
    draw = np.random.default_rng(seed)
    codes = draw.integers(scheme.low, scheme.high + 1, (rows, columns)).astype(np.int8)
    scales = np.exp2(draw.uniform(-16, 15, (rows, scheme.groups(columns)))).astype(np.float32)
    return QuantizedTensor(scheme, codes, representable_scale(scales))


@given(
    seed=st.integers(0, 2**32 - 1),
    scheme=st.sampled_from(SCHEMES),
    rows=st.integers(1, 9),
    blocks=st.integers(1, 5),
)
def test_codes_and_scales_survive_the_file_format(
    seed: int, scheme: Scheme, rows: int, blocks: int
) -> None:
    tensor = random_tensor(seed, scheme, rows, blocks * 32)
    kind = gguf_blocks.block_type("w", scheme, blocks * 32)
    raw = gguf_blocks.encode("w", tensor)
    assert np.array_equal(gguf.quants.dequantize(raw, kind), tensor.dequantize())
    back = gguf_blocks.as_scheme(
        *gguf_blocks.decode(raw, kind), scheme.bits, per_row=not scheme.group_size
    )
    assert back.digest("w") == tensor.digest("w")


@given(rows=st.integers(1, 8), heads=st.integers(1, 6))
def test_restoring_undoes_interleaving(rows: int, heads: int) -> None:
    count = rows * 2 * heads
    order, back = interleaved(count, heads), restored(count, heads)
    assert np.array_equal(order[back], np.arange(count))


def test_a_tensor_of_many_pieces_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = random_tensor(3, Scheme(4, 32), 50, 96)
    whole = gguf_blocks.encode("w", tensor)
    monkeypatch.setattr(packing, "PIECE", 7 * 96)
    assert np.array_equal(gguf_blocks.encode("w", tensor), whole)
    codes, scales = gguf_blocks.decode(whole, gguf_blocks.Q4_0)
    assert np.array_equal(codes, tensor.codes)
    assert np.array_equal(scales, tensor.scales)


def test_rows_whose_scales_disagree_come_back_in_groups() -> None:
    tensor = random_tensor(1, Scheme(8, 0), 4, 64)
    raw = gguf_blocks.encode("w", tensor)
    raw[2, 35] ^= 4  # the exponent of the second block's scale
    back = gguf_blocks.as_scheme(*gguf_blocks.decode(raw, gguf_blocks.Q8_0), 8, per_row=True)
    assert back.scheme == Scheme(8, 32)


def test_other_schemes_and_shapes_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"layer\.w: scheme int4-g64"):
        gguf_blocks.block_type("layer.w", Scheme(4, 64), 64)
    with pytest.raises(UnsupportedError, match=r"layer\.w: rows of 48 columns"):
        gguf_blocks.block_type("layer.w", Scheme(8, 0), 48)


def test_a_scale_that_float16_would_round_is_refused() -> None:
    tensor = QuantizedTensor(
        Scheme(8, 32), np.zeros((1, 32), np.int8), np.array([[0.1]], np.float32)
    )
    with pytest.raises(UnsupportedError, match="exact in float16"):
        gguf_blocks.encode("w", tensor)
