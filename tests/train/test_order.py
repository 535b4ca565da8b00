"""Which rows a step sees."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.train.order import draws

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
rows = st.integers(1, 50)
seeds = st.integers(0, 2**40)


@given(rows, seeds, st.integers(0, 3))
def test_an_epoch_draws_every_row_once(count: int, seed: int, epoch: int) -> None:
    found = [draw.row for draw in draws(count, seed, epoch * count, count)]
    assert sorted(found) == list(range(count))


@given(rows, seeds, st.integers(0, 60), st.integers(0, 20))
def test_a_later_start_sees_the_same_rows(count: int, seed: int, start: int, more: int) -> None:
    whole = draws(count, seed, 0, start + more)
    assert draws(count, seed, start, more) == whole[start:]


def test_epochs_have_orders_of_their_own() -> None:
    one, two = (draws(100, 0, start, 100) for start in (0, 100))
    assert [draw.row for draw in one] != [draw.row for draw in two]


def test_no_two_draws_are_alike() -> None:
    assert len({draw.seen for draw in draws(10, 0, 0, 100)}) == 100


