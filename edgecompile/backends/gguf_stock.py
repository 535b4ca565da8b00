"""Does llama.cpp's own tokenizer agree with the source's? Asked of the very file that ships."""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from edgecompile.errors import UnsupportedError
from edgecompile.text.hard_strings import hard_strings
from edgecompile.tokenizer import tokenizer_json

LINES = 100  # of llama.cpp's log, to find out why it did not open a file
_KEPT: list[object] = []


def differing(file: Path, source: Path, texts: Sequence[str] = ()) -> tuple[int, int]:
    """(strings whose ids differ, strings compared) of the hard ones and `texts`.

    It opens the vocabulary only.
    UnsupportedError where llama.cpp does not open the file: it has rules for some models by name.
    """
    import llama_cpp
    from tokenizers import Tokenizer

    said: deque[bytes] = deque(maxlen=LINES)
    heard = llama_cpp.llama_log_callback(lambda _level, text, _data: said.append(text))
    _KEPT.append(heard)  # llama.cpp holds only its address
    llama_cpp.llama_log_set(heard, None)
    try:
        engine = llama_cpp.Llama(str(file), vocab_only=True, n_ctx=8, verbose=False)
    except ValueError as error:
        found = next((line.decode().strip() for line in said if b"error" in line), str(error))
        raise UnsupportedError(
            "gguf", f"llama.cpp: {found}", "a file that opens",
            "another name for the folder, if it has that of another model",
        ) from error  # fmt: skip
    tokenizer = Tokenizer.from_str(tokenizer_json(source))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    strings = [*hard_strings(), *texts]
    wrong = 0
    for text in strings:
        expected = tokenizer.encode(text).ids
        wrong += engine.tokenize(text.encode(), add_bos=True, special=True) != expected
    engine.close()
    return wrong, len(strings)
