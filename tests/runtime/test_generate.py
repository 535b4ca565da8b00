from __future__ import annotations

import dataclasses
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgecompile.runtime import EdgecompileError, Session, UsageError, load
from tests.runtime.conftest import Bundles
from tests.runtime.makers import CONTEXT, DECODERS, KV_HEADS

PROMPT = [5, 6, 7, 8, 9, 10, 11]


@pytest.fixture(params=DECODERS)
def session(request: pytest.FixtureRequest, bundles: Bundles) -> Session:
    return load(bundles(request.param), threads=1)


def logits(session: Session, ids: list[int]) -> np.ndarray:
    return np.concatenate([chunk.copy() for chunk in session.logits(ids)])


def test_greedy_generation_takes_the_likeliest_token_of_the_logits(session: Session) -> None:
    tokens = list(session.generate_ids(PROMPT, 12))
    rows = logits(session, PROMPT + tokens)
    assert tokens == rows[len(PROMPT) - 1 : -1].argmax(axis=1).tolist()


def test_a_token_at_a_time_gives_the_logits_of_all_at_once(session: Session) -> None:
    rows = logits(session, PROMPT)
    with session._need().decoder(len(PROMPT)) as decoder:
        stepped = [decoder.feed([token]).copy() for token in PROMPT]
    assert np.abs(np.array(stepped) - rows).max() < 1e-2 * np.abs(rows).max()


def test_a_long_past_is_kept_when_the_cache_grows(session: Session) -> None:
    ids = [3 + at % 200 for at in range(1300)]
    rows = logits(session, ids)
    assert rows.shape == (1300, rows.shape[1])
    with session._need().decoder(len(ids)) as decoder:
        decoder.feed(ids[:500])
        for token in ids[500:520]:
            decoder.feed([token])
        last = decoder.feed(ids[520:]).copy()
    assert np.abs(last - rows[-1]).max() < 1e-2 * np.abs(rows).max()


def test_onnx_logits_are_those_of_the_raw_graph(bundles: Bundles) -> None:
    session = load(bundles("onnx-decoder"))
    past = np.zeros((1, KV_HEADS, 0, 16), np.float32)
    raw = session.run(
        input_ids=np.array([PROMPT]),
        attention_mask=np.ones((1, len(PROMPT)), np.int64),
        **{f"past_key_values.{at}.{part}": past for at in (0, 1) for part in ("key", "value")},
    )
    assert np.allclose(raw["logits"][0], logits(session, PROMPT), atol=1e-4)


def test_logits_of_a_text_longer_than_the_context_start_over(session: Session) -> None:
    ids = [3 + at % 200 for at in range(CONTEXT + 5)]
    assert np.allclose(logits(session, ids)[CONTEXT:], logits(session, ids[CONTEXT:]), atol=1e-4)


def test_pieces_join_to_the_decoded_tokens(session: Session) -> None:
    ids = session.tokenize(["the quick brown fox"])[0]
    tokens = list(session.generate_ids(ids, 40))
    assert session._tokens is not None
    if 1 not in tokens:
        text = "".join(session.generate("the quick brown fox", max_new_tokens=40))
        assert text == session._tokens.decode(tokens)


def test_generation_ends_before_a_stop_string(session: Session) -> None:
    text = "".join(session.generate("the quick", max_new_tokens=30))
    stop = text[len(text) // 2 :][:3]
    cut = "".join(session.generate("the quick", max_new_tokens=30, stop=[stop]))
    assert cut == text[: text.index(stop)]


def test_generation_ends_at_a_stop_token_and_shows_nothing_of_it(bundles: Bundles) -> None:
    session = load(bundles("llama-decoder"))
    ids = session.tokenize(["the quick"])[0]
    tokens = list(session.generate_ids(ids, 5))
    assert session.info.generation is not None
    generation = dataclasses.replace(session.info.generation, stop_token_ids=(tokens[0],))
    session.info = dataclasses.replace(session.info, generation=generation)
    assert list(session.generate("the quick", max_new_tokens=5)) == []


def test_one_seed_gives_one_text(session: Session) -> None:
    texts = {
        "".join(session.generate("fox", max_new_tokens=20, temperature=1.0, seed=7))
        for _ in range(3)
    }
    assert len(texts) == 1


def test_messages_go_through_the_chat_template(session: Session) -> None:
    ids = session.prompt_ids([{"role": "user", "content": "fox"}])
    raw = "<|im_start|>user\nfox<|im_end|>\n<|im_start|>assistant\n"
    assert ids == session.prompt_ids(raw)
    assert ids.count(0) == 2


def test_tools_are_for_messages_only(session: Session) -> None:
    tools = [{"type": "function", "function": {"name": "now"}}]
    ids = session.prompt_ids([{"role": "user", "content": "fox"}], tools=tools)
    assert ids == session.prompt_ids([{"role": "user", "content": "fox"}])  # it shows no tools
    with pytest.raises(UsageError, match="a raw prompt"):
        session.generate("fox", tools=tools)


def test_threads_share_a_session_and_get_what_one_alone_gets(session: Session) -> None:
    prompts = [f"the {word} fox" for word in ("quick", "lazy", "brown", "over", "dog", "jumps")]
    alone = ["".join(session.generate(prompt, max_new_tokens=25)) for prompt in prompts]
    with ThreadPoolExecutor(6) as pool:
        together = list(
            pool.map(lambda p: "".join(session.generate(p, max_new_tokens=25)), prompts)
        )
    assert together == alone


def test_an_abandoned_generator_holds_up_nobody(session: Session) -> None:
    abandoned = [session.generate("the quick", max_new_tokens=50) for _ in range(4)]
    for stream in abandoned:
        next(stream)
    assert "".join(session.generate("fox", max_new_tokens=5))
    del abandoned, stream
    gc.collect()
    session.close()


def test_a_closed_session_says_so_even_inside_a_stream(session: Session) -> None:
    stream = session.generate("the quick", max_new_tokens=50)
    next(stream)
    session.close()
    with pytest.raises(UsageError, match="closed"):
        list(stream)
    with pytest.raises(UsageError, match="closed"):
        session.generate("fox")
    session.close()


def test_closing_while_others_generate_never_crashes(bundles: Bundles) -> None:
    for kind in DECODERS:
        session = load(bundles(kind), threads=1)

        def work(at: int, session: Session = session) -> str:
            if at == 5:
                session.close()
            try:
                return "".join(session.generate("fox", max_new_tokens=30))
            except UsageError as error:
                return str(error)

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(work, range(16)))
        assert "closed" in answers[-1]


def test_a_session_is_closed_by_a_with_block(bundles: Bundles) -> None:
    with load(bundles("onnx-decoder")) as session:
        assert session.tokenize(["fox"])
    with pytest.raises(UsageError, match="closed"):
        session.tokenize(["fox"])


def test_generation_ends_when_the_context_is_full(session: Session) -> None:
    ids = [3 + at % 200 for at in range(CONTEXT - 3)]
    assert len(list(session.generate_ids(ids, 50))) == 3


def test_a_prompt_must_fit_the_context_and_hold_a_token(session: Session) -> None:
    with pytest.raises(UsageError, match=f"fewer than {CONTEXT}"):
        list(session.generate_ids([5] * CONTEXT, 1))
    with pytest.raises(UsageError, match="at least one"):
        session.generate("")


def test_a_long_prompt_is_refused_not_cut(session: Session) -> None:
    assert len(session.tokenize(["fox " * 3000])[0]) > CONTEXT
    with pytest.raises(UsageError, match="tokens"):
        session.generate("fox " * 3000)


def test_a_wrong_option_is_refused_before_the_first_token(session: Session) -> None:
    with pytest.raises(UsageError, match="temprature"):
        session.generate("fox", temprature=1)
    with pytest.raises(UsageError, match="stop"):
        session.generate("fox", stop="###")
    with pytest.raises(UsageError, match="embedding"):
        session.embed(["fox"])


def test_a_token_outside_the_vocabulary_is_an_error_not_a_crash(session: Session) -> None:
    for token in (10**6, -1):
        with pytest.raises(EdgecompileError, match=str(token)):
            list(session.generate_ids([token], 1))


def test_a_missing_tokenizer_template_is_a_usage_error(bundles: Bundles) -> None:
    session = load(bundles("onnx-decoder"))
    session._template = None
    with pytest.raises(UsageError, match="no chat template"):
        session.generate([{"role": "user", "content": "x"}])


def test_an_engine_that_is_not_installed_names_the_pip_install(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecompile.runtime import MissingLibraryError

    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'onnxruntime>=1'"):
        load(bundles("onnx-decoder"))


def test_a_file_that_is_no_graph_is_bad_input(tmp_path: Path) -> None:
    from edgecompile.runtime import BadInputError
    from tests.runtime.makers import manifest, seal

    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    (tmp_path / "model.gguf").write_bytes(b"not a file")
    for name, file in (("onnxruntime", "model.onnx"), ("llama_cpp", "model.gguf")):
        seal(tmp_path, manifest("module", {"name": name, "file": file}, tokenizer=None))
        with pytest.raises(BadInputError, match=file):
            load(tmp_path)
