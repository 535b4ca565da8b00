"""Does llama.cpp's own tokenizer agree with the source's? Asked of the very file that ships."""
from __future__ import annotations

from pathlib import Path

from edgecompile.text.hard_strings import hard_strings
from edgecompile.tokenizer import tokenizer_json

_KEPT: list[object] = []


def differing(file: Path, source: Path) -> tuple[int, int]:
    """(hard strings whose ids differ, strings compared); opens the vocabulary only."""
    import llama_cpp
    from tokenizers import Tokenizer

    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    engine = llama_cpp.Llama(str(file), vocab_only=True, n_ctx=8, verbose=False)
    tokenizer = Tokenizer.from_str(tokenizer_json(source))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    strings = hard_strings()
    wrong = 0
    for text in strings:
        expected = tokenizer.encode(text).ids
        wrong += engine.tokenize(text.encode(), add_bos=True, special=True) != expected
    engine.close()
    _KEPT.append(silent)  # llama.cpp holds only its address
    return wrong, len(strings)
