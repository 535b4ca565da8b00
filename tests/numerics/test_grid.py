"""The grid: scales that every engine can hold, codes that err by half a step at most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import QuantizedTensor, Scheme, representable_scale

INT4, INT8 = Scheme(4, 32), Scheme(8, 0)
finite = st.floats(-1e4, 1e4, width=32)
matrices = arrays(
    np.float32, st.tuples(st.integers(1, 4), st.sampled_from([32, 64])), elements=finite
)


@given(st.floats(2.0**-17, 60000.0, width=32))
def test_a_scale_is_exact_in_float16_and_in_bfloat16(value: float) -> None:
    scale = representable_scale(np.array([value], np.float32))
    bits = scale.view(np.uint32)
    assert (scale.astype(np.float16).astype(np.float32) == scale).all(), "float16"
    assert (bits & 0xFFFF == 0).all(), "bfloat16: the low half of a float32 is zero"


@given(st.floats(2.0**-16, 60000.0, width=32))
def test_rounding_a_scale_moves_it_by_less_than_one_part_in_256(value: float) -> None:
    scale = float(representable_scale(np.array([value], np.float32))[0])
    assert abs(scale - value) <= value / 256


@settings(deadline=None)
@given(matrices, st.sampled_from([INT4, INT8]), st.booleans())
def test_scales_are_positive_whatever_the_weights(
    weight: np.ndarray, scheme: Scheme, search: bool
) -> None:
    assert (quantize(weight, scheme, search).scales > 0).all()


@settings(deadline=None)
@given(matrices, st.sampled_from([INT4, INT8]))
def test_without_a_search_no_weight_moves_by_more_than_its_step(
    weight: np.ndarray, scheme: Scheme
) -> None:
    tensor = quantize(weight, scheme, search=False)
    step = np.repeat(tensor.scales, weight.shape[1] // tensor.scales.shape[1], axis=1)
    # A scale rounded down clips its largest weight: by less than 1/256 of high steps.
    limit = step * (0.5 + scheme.high / 256) + 1e-6
    assert (np.abs(tensor.dequantize() - weight) <= limit).all()


@settings(deadline=None)
@given(matrices, st.sampled_from([INT4, INT8]))
def test_a_search_never_errs_more_than_none(weight: np.ndarray, scheme: Scheme) -> None:
    plain, searched = (quantize(weight, scheme, search) for search in (False, True))
    errors = [float(np.square(t.dequantize() - weight).sum()) for t in (plain, searched)]
    assert errors[1] <= errors[0] * (1 + 1e-5)


@settings(deadline=None)
@given(matrices)
def test_dequantized_codes_quantize_to_themselves(weight: np.ndarray) -> None:
    once = quantize(weight, INT4)
    again = quantize(once.dequantize(), INT4)
    assert np.abs(once.dequantize() - again.dequantize()).max() <= np.abs(once.scales).max()


def test_a_group_of_zeros_gets_zero_codes_and_the_smallest_scale() -> None:
    tensor = quantize(np.zeros((2, 32), np.float32), INT4)
    assert (tensor.codes == 0).all()
    assert (tensor.scales == np.float32(2.0**-17)).all()


def test_columns_that_do_not_divide_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="48 columns do not divide into groups of 32"):
        quantize(np.zeros((1, 48), np.float32), INT4)


def test_codes_stay_the_same_however_many_rows_are_quantized_at_once() -> None:
    weight = np.random.default_rng(0).standard_normal((5000, 64)).astype(np.float32)
    whole, part = quantize(weight, INT4), quantize(weight[4990:], INT4)
    assert (whole.codes[4990:] == part.codes).all()


@pytest.mark.parametrize("name", ["int4-g32", "int8-channel", "int8-g32", "int2-g32"])
def test_a_scheme_is_written_and_read_back(name: str) -> None:
    assert Scheme.parse(name).name == name


def test_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'int5-g32'"):
        Scheme.parse("int5-g32")


def test_a_digest_sees_one_code() -> None:
    codes = np.zeros((2, 32), np.int8)
    before = QuantizedTensor(INT4, codes, np.ones((2, 1), np.float32)).digest("w")
    codes[1, 31] = 1
    assert QuantizedTensor(INT4, codes, np.ones((2, 1), np.float32)).digest("w") != before
