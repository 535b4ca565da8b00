from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgecompile.runtime.errors import BadInputError, UsageError
from edgecompile.runtime.wire import DTYPES, error_fields, raise_error, receive, send

ARRAYS = st.dictionaries(
    st.text(max_size=5),
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, min_side=0))
    ),
    max_size=3,
)


@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "arrays"), st.text()), ARRAYS)
def test_what_is_sent_is_received(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    stream = io.BytesIO()
    send(stream, header, arrays)
    stream.seek(0)
    message = receive(stream)
    assert message is not None
    assert message[0] == header
    assert message[1].keys() == arrays.keys()
    for name, array in arrays.items():
        assert message[1][name].dtype == array.dtype
        assert message[1][name].shape == array.shape
        assert message[1][name].tobytes() == array.tobytes()
    assert receive(stream) is None


def test_big_endian_and_strided_arrays_arrive_by_value() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    stream = io.BytesIO()
    send(stream, {}, {"x": array})
    stream.seek(0)
    message = receive(stream)
    assert message is not None
    assert message[1]["x"].tolist() == array.tolist()


@pytest.mark.parametrize(
    "raw",
    [
        b"no json\n",
        b"[1]\n",
        b'{"a": 1}',
        b'{"arrays": [{"name": "x", "dtype": "object", "shape": [1]}]}\n12345678',
        b'{"arrays": [{"name": "x", "dtype": "int8", "shape": [-1]}]}\n12345678',
        b'{"arrays": [{"name": "x", "dtype": "int8", "shape": [4294967296, 4294967296]}]}\n',
        b'{"arrays": [{"name": "x", "dtype": "int8", "shape": [9]}]}\n12345678',
        b'{"arrays": [{"name": "x"}]}\n',
        b'{"arrays": 5}\n',
    ],
)
def test_a_torn_or_absurd_message_is_refused(raw: bytes) -> None:
    with pytest.raises(BadInputError):
        receive(io.BytesIO(raw))


def test_an_error_comes_back_as_its_class_with_its_words() -> None:
    error = UsageError("here", "this", "that", "do so")
    with pytest.raises(UsageError) as caught:
        raise_error(error_fields(error))
    assert str(caught.value) == str(error)
