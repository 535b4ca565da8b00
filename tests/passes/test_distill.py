"""distill on small true architectures: what is learned, kept on disk, refused, written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecompile import sources
from edgecompile.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.passes.distill import Distill
from edgecompile.passes.prune_l2 import PruneL2
from edgecompile.passes.prune_vocab import PruneVocab
from edgecompile.text.parts import Corpus, Document
from edgecompile.train import distilling
from edgecompile.train.objectives.distillation import Distillation
from edgecompile.train.watched import Watched, mapped, relation, relation_heads
from tests import tiny
from tests.architectures import cells
from tests.train import small

KINDS = {kind.model_type: kind for kind in cells.KINDS}
SHORT: dict[str, Any] = {"steps": 24, "batch": 8, "lr": 3e-3, "threads": 1}
QUICK: dict[str, Any] = {"texts": 32, "length": 24}


def load(folder: Path, task: str = "") -> Model:
    return sources.load(sources.resolve(str(folder), task=task), lambda *_: None)


def labelled(count: int = 40) -> Corpus:
    names = {"animal": "LABEL_1", "number": "LABEL_0", "text": "LABEL_0"}
    texts = [Document(row["text"], names[row["label"]]) for row in small.rows(3 * count)]
    parts = (tuple(texts[start : start + count]) for start in range(0, 3 * count, count))
    return Corpus("labelled", *parts)


def pruned(folder: Path, task: str = "text-generation", ratio: float = 0.3) -> Model:
    kind = KINDS["llama" if task == "text-generation" else "bert"]
    model = cells.make(kind, task, folder / "model")
    return PruneL2(ratio=ratio, multiple=16)(model, tiny.work(folder / "prune")).model


def prepared(options: Distill, model: Model, folder: Path) -> tuple[Watched, Distillation]:
    origin = model.origin or model
    return distilling.prepared(options, model, origin, tiny.work(folder / "work", labelled()))


def loss_of(student: Watched, objective: Distillation) -> float:
    with torch.no_grad():
        return objective.evaluate(student.eval())["loss"]


@pytest.mark.parametrize("task", ["embedding", "classification", "text-generation"])
def test_a_pruned_model_comes_nearer_to_the_model_that_came_in(task: str, tmp_path: Path) -> None:
    model, work = pruned(tmp_path, task), tiny.work(tmp_path / "work", labelled())
    options = Distill(train=SHORT, **QUICK)
    before = loss_of(*prepared(options, model, tmp_path / "before"))
    result = options(model, work)
    after = loss_of(*prepared(options, result.model, tmp_path / "after"))
    assert after < 0.8 * before


def test_a_decoder_is_measured_on_8192_tokens_at_most(tmp_path: Path) -> None:
    model = cells.make(KINDS["llama"], "text-generation", tmp_path / "model")
    many = tuple(Document(row["text"]) for row in small.rows(3000))
    work = tiny.work(tmp_path / "work", Corpus("plain", many[:40], many, many[:40]))
    _, objective = distilling.prepared(Distill(cache_mb=0, **QUICK), model, model, work)
    assert 8192 - 24 <= sum(len(row["ids"]) for row in objective.held) <= 8192


@pytest.mark.parametrize("loss", ["soft", "task", "hidden", "relations"])
def test_each_loss_alone_trains(loss: str, tmp_path: Path) -> None:
    model = pruned(tmp_path, "classification")
    only = {name: float(name == loss) for name in ("soft", "task", "hidden", "relations")}
    options = Distill(train=SHORT, **QUICK, **only)
    student, objective = prepared(options, model, tmp_path)
    batch = objective.collate(objective.items(objective.draws(0, 32)))
    first = float(objective.loss(student, batch)[0].detach())
    trained = options(model, tiny.work(tmp_path / "run", labelled())).model
    student, objective = prepared(options, trained, tmp_path / "after")
    if student.bridges:
        return  # their maps are made anew
    assert float(objective.loss(student, batch)[0].detach()) < first


@pytest.mark.parametrize("loss", ["soft", "hidden", "relations"])
def test_a_model_has_nothing_to_learn_from_itself(loss: str, tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    only = {name: float(name == loss) for name in ("soft", "task", "hidden", "relations")}
    student, objective = prepared(Distill(**only, **QUICK), model, tmp_path)
    batch = objective.collate(objective.items(objective.draws(0, 8)))
    assert abs(float(objective.loss(student, batch)[0].detach())) < 1e-3


def test_answers_on_disk_are_those_that_the_teacher_gives(tmp_path: Path) -> None:
    model = pruned(tmp_path, "text-generation")
    student, kept = prepared(Distill(**QUICK), model, tmp_path / "kept")
    _, asked = prepared(Distill(**QUICK, cache_mb=0), model, tmp_path / "asked")
    batch = kept.collate(kept.items(kept.draws(0, 8)))
    assert kept.teacher.kept == kept.rows
    assert asked.teacher.kept == 0
    one, other = (float(each.loss(student, batch)[0].detach()) for each in (kept, asked))
    assert one == pytest.approx(other, rel=1e-4)


def test_answers_on_disk_stay_within_their_bound(tmp_path: Path) -> None:
    model = pruned(tmp_path, "text-generation")
    _, objective = prepared(Distill(**QUICK, cache_mb=0.2), model, tmp_path)
    assert 0 < objective.teacher.kept < objective.rows
    assert (tmp_path / "work" / "teacher" / "answers.bin").stat().st_size <= 200_000


def test_a_student_of_another_width_learns_hidden_states_through_a_map(tmp_path: Path) -> None:
    model = pruned(tmp_path, "classification", ratio=0.6)
    assert model.config["hidden_size"] < 64
    student, _ = prepared(Distill(hidden=1.0, **QUICK), model, tmp_path)
    assert {name: layer.out_features for name, layer in student.bridges.items()} == {
        "0": 64, "1": 64,
    }  # fmt: skip


def test_the_map_does_not_ship(tmp_path: Path) -> None:
    model = pruned(tmp_path, "classification", ratio=0.6)
    options = Distill(hidden=1.0, train=SHORT, **QUICK)
    result = options(model, tiny.work(tmp_path / "work", labelled()))
    assert set(result.model.weights) == set(model.weights)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(3, 6, {0: 1, 1: 3, 2: 5}), (2, 5, {0: 2, 1: 4}), (4, 4, {0: 0, 1: 1, 2: 2, 3: 3}),
     (6, 3, {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2})],
)  # fmt: skip
def test_layers_are_mapped_evenly_and_the_last_to_the_last(
    student: int, teacher: int, expected: dict[int, int]
) -> None:
    assert mapped(student, teacher) == expected


def test_relations_are_distributions_over_what_a_token_may_see() -> None:
    values, mask = torch.randn(2, 5, 12), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    found = relation(values, 3, mask, causal=True).exp()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, 5))
    assert float(found[0, :, :, 4].max()) == 0
    assert float(found.triu(1).max()) == 0


def test_relation_heads_divide_both_models_widths(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))  # 64 queries, 32 keys
    assert relation_heads(12, model, model) == 8


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model = pruned(tmp_path)
    options = Distill(train=SHORT, **QUICK)
    digests = {
        options(model, tiny.work(tmp_path / name, labelled())).model.source.digest
        for name in ("one", "two")
    }
    assert len(digests) == 1


def test_the_report_says_how_it_went(tmp_path: Path) -> None:
    model = pruned(tmp_path)
    result = Distill(train=SHORT, **QUICK)(model, tiny.work(tmp_path / "work", labelled()))
    assert result.model.source.notes[-1].startswith("distill: 24 steps on ")
    assert {row.action for row in result.layers} == {"changed"}
    assert result.model.origin is model.origin


def test_a_tied_head_stays_one_tensor(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    result = Distill(task=1.0, train=SHORT, **QUICK)(model, tiny.work(tmp_path / "w", labelled()))
    assert "lm_head.weight" not in result.model.weights


def test_what_is_trained_keeps_its_dtype(tmp_path: Path) -> None:
    import transformers

    folder = tiny.llama(tmp_path / "model")
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    module.save_pretrained(folder)
    options = Distill(task=1.0, train=SHORT, **QUICK)
    trained = options(load(folder), tiny.work(tmp_path / "work", labelled())).model
    assert {info.dtype for info in trained.weights.infos.values()} == {"BF16"}


def test_labels_are_needed_for_the_task_alone(tmp_path: Path) -> None:
    model = pruned(tmp_path, "classification")
    with pytest.raises(UsageError, match="texts without labels"):
        Distill(task=1.0, **QUICK)(model, tiny.work(tmp_path / "work", tiny.corpus()))


def test_no_text_is_said(tmp_path: Path) -> None:
    empty = dataclasses.replace(labelled(), calibration=())
    with pytest.raises(BadInputError, match="no calibration text"):
        Distill(**QUICK)(pruned(tmp_path), tiny.work(tmp_path / "work", empty))


def test_a_task_without_such_losses_is_refused_by_plan(tmp_path: Path) -> None:
    model = cells.make(KINDS["bert"], "fill-mask", tmp_path / "model")
    with pytest.raises(UnsupportedError, match="task fill-mask"):
        Distill().headers(model)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"soft": 0.0}, "every loss has weight 0"),
        ({"temperature": 0.0}, "temperature"),
        ({"hidden": -1.0}, "hidden"),
        ({"train": {"lrr": 1}}, "lrr"),
        ({"train": {"lr": float("nan")}}, "lr = nan"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Distill(**options)


def test_vectors_of_another_length_are_compared_by_their_similarities(tmp_path: Path) -> None:
    from edgecompile.train.objectives.distillation import _direction

    same = torch.nn.functional.normalize(torch.randn(6, 8), dim=-1)
    turned = same @ torch.linalg.qr(torch.randn(12, 8))[0].T
    assert float(_direction(turned, same)) < 1e-9
    assert not np.isnan(float(_direction(same, same)))


def with_fewer_tokens(folder: Path, task: str, text: str) -> Model:
    kind = KINDS["llama" if task == "text-generation" else "bert"]
    model = cells.make(kind, task, folder / "model")
    parts = ((Document(text),),) * 3
    return PruneVocab(multiple=1)(model, tiny.work(folder / "vocab", Corpus("few", *parts))).model


@pytest.mark.parametrize("task", ["embedding", "classification", "text-generation"])
def test_a_model_of_fewer_tokens_knows_all_of_kept_text(task: str, tmp_path: Path) -> None:
    texts = " ".join(document.text for document in labelled().calibration)
    model = with_fewer_tokens(tmp_path, task, "the" if task == "text-generation" else texts)
    assert model.parameters < model.origin.parameters  # type: ignore[union-attr]
    student, objective = prepared(Distill(hidden=1.0, cache_mb=0, **QUICK), model, tmp_path)
    batch = objective.collate(objective.items(objective.draws(0, 8)))
    parts = objective.loss(student.eval(), batch)[1]
    assert abs(parts["hidden"]) < 1e-3
    assert abs(parts["soft"]) < 1e-3  # a decoder's over the tokens that both have


@pytest.mark.parametrize("task", ["embedding", "classification"])
def test_an_encoder_of_fewer_tokens_learns_what_it_lost(task: str, tmp_path: Path) -> None:
    model = with_fewer_tokens(tmp_path, task, "the")
    options = Distill(train=SHORT, **QUICK)
    before = loss_of(*prepared(options, model, tmp_path / "before"))
    trained = options(model, tiny.work(tmp_path / "run", labelled())).model
    assert loss_of(*prepared(options, trained, tmp_path / "after")) < before


def test_a_teacher_of_vectors_reads_the_text_in_its_own_tokens(tmp_path: Path) -> None:
    model = with_fewer_tokens(tmp_path, "embedding", "the")
    _, objective = prepared(Distill(**QUICK), model, tmp_path)
    batch = objective.collate(objective.items(objective.draws(0, 4)))
    assert batch["asked.input_ids"].shape[1] < batch["input_ids"].shape[1]
