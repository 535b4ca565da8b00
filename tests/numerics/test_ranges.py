"""Ranges of 8-bit activations hold zero and lose what numpy says they lose."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgecompile.numerics import ranges, smooth
from edgecompile.numerics.ranges import ESTIMATORS, Range

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
# A 255th of a subnormal range is 0 in float32, and no scale at all.
FLOATS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
VALUES = arrays(np.float32, st.integers(1, 200), elements=FLOATS)


@given(VALUES)
def test_zero_has_a_code_of_its_own(values: np.ndarray) -> None:
    for name, estimate in ESTIMATORS.items():
        found = estimate(values)
        assert found.scale > 0, name
        assert 0 <= found.zero <= 255, name
        assert found.rounded(np.zeros(1, np.float32)) == 0, name


@given(VALUES)
def test_the_whole_range_loses_at_most_one_step_anywhere(values: np.ndarray) -> None:
    found = ranges.min_max(values)
    # Half a step of rounding, and half a step by which the zero point was rounded.
    assert np.abs(found.rounded(values) - values).max() <= found.scale * 1.001 + 1e-6


@given(VALUES)
def test_the_least_squares_range_never_loses_more_than_the_whole_one(values: np.ndarray) -> None:
    whole, best = ranges.min_max(values), ranges.least_squares(values)
    error = ranges.squared_error(values, best)
    assert error <= ranges.squared_error(values, whole) * (1 + 1e-6)


def test_the_percentile_is_numpys() -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    low, high = np.percentile(values, (0.005, 99.995))
    assert ranges.percentile(values) == Range.between(float(low), float(high))


def test_one_outlier_does_not_widen_a_percentile() -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    values[7] = 1e4
    assert ranges.percentile(values).scale < ranges.min_max(values).scale / 100


@given(VALUES)
def test_the_engine_finds_the_same_range_and_codes(values: np.ndarray) -> None:
    node = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    kinds = (("y", onnx.TensorProto.UINT8, ["n"]), ("s", onnx.TensorProto.FLOAT, []),
             ("z", onnx.TensorProto.UINT8, []))  # fmt: skip
    outputs = [onnx.helper.make_tensor_value_info(*kind) for kind in kinds]
    given_ = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", given_, outputs),
        opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    codes, scale, zero = session.run(None, {"x": values})
    found = ranges.min_max(values)
    assert scale == pytest.approx(found.scale, rel=1e-6)
    assert abs(int(zero) - found.zero) <= 1
    if int(zero) == found.zero and scale == np.float32(found.scale):
        ours = found.rounded(values)
        theirs = (codes.astype(np.float32) - np.float32(zero)) * scale
        assert np.abs(ours - theirs).max() <= found.scale * 1.001


def inputs(rows: np.ndarray) -> smooth.Inputs:
    return smooth.Inputs(rows, rows.min(0), rows.max(0))


def test_a_scale_is_equation_4_with_mean_one() -> None:
    rows = np.array([[1.0, -8.0], [-2.0, 4.0]], np.float32)
    weight = np.array([[1.0, 0.5]], np.float32)
    found = smooth.scales(inputs(rows), weight, 0.5)
    expected = np.sqrt([2.0 / 1.0, 8.0 / 0.5])
    assert found == pytest.approx(expected / np.sqrt(expected.prod()))


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_an_outlier_channel_is_smoothed_away(name: str) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((256, 64)).astype(np.float32)
    rows[:, 3] *= 60
    weight = rng.standard_normal((32, 64)).astype(np.float32)
    found = smooth.search(inputs(rows), weight, ESTIMATORS[name])
    assert found.alpha > 0
    assert found.error < found.plain_error / 2


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_search_never_loses_more_than_no_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((16, 8)) * rng.exponential(2, 8)).astype(np.float32)
    weight = rng.standard_normal((4, 8)).astype(np.float32)
    found = smooth.search(inputs(rows), weight, ranges.min_max)
    assert found.error <= found.plain_error
