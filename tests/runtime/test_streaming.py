from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecompile.runtime.streaming import StopStrings, TextStream

# A vocabulary of single bytes: every character beyond ASCII takes several tokens.
BYTES = st.lists(st.integers(0, 255), max_size=80)


def decode(ids: object) -> str:
    return bytes(ids).decode(errors="replace")  # type: ignore[call-overload, no-any-return]


def pieces(ids: list[int]) -> list[str]:
    stream = TextStream(decode)
    return [*(stream.push(token) for token in ids), stream.flush()]


@given(st.text(max_size=60))
def test_text_comes_out_whole_and_no_piece_splits_a_character(text: str) -> None:
    parts = pieces(list(text.encode()))
    assert "".join(parts) == text
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(parts)


@given(BYTES)
def test_bytes_that_are_no_text_come_out_as_decoding_them_at_once(ids: list[int]) -> None:
    assert "".join(pieces(ids)) == decode(ids)


def test_a_character_is_shown_with_the_token_that_completes_it() -> None:
    assert pieces(list("aé🙂".encode())) == ["a", "", "é", "", "", "", "🙂", ""]


def test_a_long_text_is_not_decoded_again_and_again() -> None:
    longest = 0

    def spy(ids: object) -> str:
        nonlocal longest
        longest = max(longest, len(list(ids)))  # type: ignore[call-overload]
        return decode(ids)

    stream = TextStream(spy)
    for token in b"x" * 1000:
        stream.push(token)
    assert longest < 80


def cut(text: str, sizes: list[int]) -> list[str]:
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    return [*parts, text[at:]]


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 4), max_size=30),
)
def test_a_stop_string_is_found_however_the_text_is_cut(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    buffer = StopStrings(stops)
    shown = ""
    for part in cut(text, sizes):
        shown += buffer.push(part)
        if buffer.found:
            break
    shown += buffer.flush()
    # Reading one character at a time, the first stop to be complete ends the text.
    ends = [text.find(stop) for stop in stops if stop in text]
    assert buffer.found == bool(ends)
    if not ends:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)


def test_text_is_held_back_no_longer_than_needed() -> None:
    buffer = StopStrings(["###"])
    assert [buffer.push("x##"), buffer.push("y"), buffer.push("#"), buffer.flush()] == [
        "x", "##y", "", "#"
    ]
