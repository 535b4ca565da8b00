from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgecompile.runtime import Session, UnsupportedError, UsageError, load
from edgecompile.runtime.batching import activate
from tests.runtime.conftest import Bundles
from tests.runtime.makers import ENCODERS, WIDTH

TEXTS = ["fox", "the quick brown fox", "the lazy dog " * 40, "é 🙂", "a b c"]


@pytest.fixture(params=ENCODERS)
def session(request: pytest.FixtureRequest, bundles: Bundles) -> Session:
    return load(bundles(request.param), threads=1)


def test_a_text_has_one_vector_whatever_its_batch(session: Session) -> None:
    together = session.embed(TEXTS * 20)
    alone = np.concatenate([session.embed([text]) for text in TEXTS] * 20)
    assert together.shape == (100, WIDTH)
    assert together.dtype == np.float32
    assert np.abs(together - alone).max() < 2e-3


def test_different_texts_have_different_vectors(session: Session) -> None:
    vectors = session.embed(TEXTS, normalize=True)
    similar = vectors @ vectors.T
    assert (similar[~np.eye(len(TEXTS), dtype=bool)] < 0.999).all()


def test_no_texts_give_no_rows(session: Session) -> None:
    assert session.embed([]).shape == (0, WIDTH)


def test_a_model_of_texts_alone_takes_no_pictures(session: Session) -> None:
    with pytest.raises(UsageError, match="expected image-text-embedding"):
        session.embed_image(["a.png"])


def test_normalize_gives_unit_vectors(session: Session) -> None:
    norms = np.linalg.norm(session.embed(TEXTS, normalize=True), axis=1)
    assert np.allclose(norms, 1, atol=1e-6)


def test_the_bundle_says_whether_vectors_are_normalized(bundles: Bundles) -> None:
    graph, llama = (load(bundles(kind)) for kind in ENCODERS)
    assert not np.allclose(np.linalg.norm(graph.embed(TEXTS), axis=1), 1, atol=1e-3)
    assert np.allclose(np.linalg.norm(llama.embed(TEXTS), axis=1), 1, atol=1e-6)
    raw = llama.embed(TEXTS, normalize=False)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-3)


def test_long_texts_are_cut_at_the_manifests_length_not_the_tokenizers(session: Session) -> None:
    ids = session.tokenize(TEXTS)
    assert max(map(len, ids)) == 64
    assert len(ids[0]) < 5
    assert np.abs(session.embed(TEXTS) - session.embed_ids(ids)).max() == 0


def test_threads_share_a_session(session: Session) -> None:
    alone = session.embed(TEXTS)
    with ThreadPoolExecutor(6) as pool:
        for vectors in pool.map(lambda _: session.embed(TEXTS), range(12)):
            assert np.array_equal(vectors, alone)


def test_one_text_is_not_a_list(session: Session) -> None:
    with pytest.raises(UsageError, match="a list of strings"):
        session.embed("fox")
    with pytest.raises(UsageError, match="at least one"):
        session.embed_ids([[]])


def test_classes_have_probabilities_that_sum_to_one(bundles: Bundles) -> None:
    answers = load(bundles("classifier")).classify(TEXTS)
    assert all(list(answer) == ["no", "maybe", "yes"] for answer in answers)
    assert np.allclose([sum(answer.values()) for answer in answers], 1, atol=1e-6)


def test_classes_that_do_not_exclude_each_other_use_a_sigmoid() -> None:
    assert activate(np.float32([[0, 100, -100]]), "sigmoid").round(6).tolist() == [[0.5, 1, 0]]
    with pytest.raises(UnsupportedError, match="relu"):
        activate(np.zeros((1, 2), np.float32), "relu")


def test_raw_inputs_are_checked_by_name_and_dtype(bundles: Bundles) -> None:
    session = load(bundles("onnx-encoder"))
    ids = np.array([[3, 4]])
    result = session.run(input_ids=ids, attention_mask=np.ones_like(ids))["result"]
    assert np.allclose(result, session.embed_ids([[3, 4]]))
    with pytest.raises(UsageError, match="attention_mask"):
        session.run(input_ids=ids)
    with pytest.raises(UsageError, match=r"input_ids: dtype float64.*int64"):
        session.run(input_ids=ids * 1.0, attention_mask=np.ones_like(ids))
    with pytest.raises(UsageError, match="shapes"):
        session.run(input_ids=ids[0], attention_mask=np.ones_like(ids))
