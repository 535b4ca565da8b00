"""Width pruning on small true architectures: what is cut together, worth most, refused, written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecompile import sources
from edgecompile.architectures import DECODERS, PRUNABLE
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model, Weights
from edgecompile.passes.prune_activation import PruneActivation
from edgecompile.passes.prune_gradient import PruneGradient
from edgecompile.passes.prune_l2 import PruneL2
from edgecompile.passes.widths import WidthOptions
from edgecompile.pruning import checkpoint
from edgecompile.pruning.axes import HEADS, HIDDEN, MLP, Shape, shape_of, smaller_config
from edgecompile.pruning.budget import Budget, widths_for
from edgecompile.pruning.importance import strongest
from edgecompile.reference import Reference
from tests import tiny
from tests.architectures import cells

IDS = [5, 17, 30, 9, 22, 41, 8, 3]
KINDS = {kind.model_type: kind for kind in cells.KINDS}
PASSES: tuple[type[WidthOptions], ...] = (PruneL2, PruneGradient, PruneActivation)
FEW: Mapping[type, dict[str, Any]] = {
    PruneL2: {}, PruneGradient: {"texts": 8, "length": 32},
    PruneActivation: {"texts": 8, "length": 32},
}  # fmt: skip


def load(folder: Path, task: str = "") -> Model:
    return sources.load(sources.resolve(str(folder), task=task), lambda *_: None)


def answers(model: Model) -> np.ndarray:
    reference = Reference(model)
    if model.task == "text-generation":
        return reference.logits(IDS)
    return reference.rows([IDS])[0]


def save(model: Model, folder: Path, changed: Mapping[str, torch.Tensor]) -> Model:
    checkpoint.write(
        model, folder, model.config, list(model.weights),
        lambda name: changed.get(name, model.weights[name]).contiguous(),
    )  # fmt: skip
    return dataclasses.replace(checkpoint.adopt(model, folder), origin=None)


def without(model: Model, shape: Shape, gone: Mapping[str, list[int]], folder: Path) -> Model:
    """The same model, in which nothing reads those units."""
    changed: dict[str, torch.Tensor] = {}
    for name, cuts in shape.cuts().items():
        for cut, axis in cuts:
            if cut.dim == 1 and axis.key in gone:
                tensor = changed.setdefault(name, model.weights[name].clone())
                for unit in gone[axis.key]:
                    start = cut.offset + unit * cut.size
                    tensor[:, start : start + cut.size] = 0
    return save(model, folder, changed)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        *((architecture, MLP) for architecture in (*DECODERS, *PRUNABLE)),
        # Encoders', and GPT-2's, with the hidden width.
        *((architecture, HEADS) for architecture, one in DECODERS.items() if one.free_heads),
    ],
)
def test_units_that_nothing_reads_can_go_and_no_answer_changes(
    architecture: str, kind: str, tmp_path: Path
) -> None:
    described = KINDS[architecture]
    model = cells.make(described, described.tasks[0], tmp_path / "model")
    shape = shape_of(model, 16)
    gone = {
        axis.key: ([axis.layer % axis.units] if kind == HEADS else list(range(1, axis.units, 3)))
        for axis in shape.axes if axis.kind == kind
    }  # fmt: skip
    unread = without(model, shape, gone, tmp_path / "unread")
    widths = {**shape.widths, kind: shape.widths[kind] - len(next(iter(gone.values())))}
    kept = {
        axis.key: torch.tensor([u for u in range(axis.units) if u not in gone.get(axis.key, ())])
        for axis in shape.axes
    }
    checkpoint.write(
        unread, tmp_path / "small", smaller_config(unread, shape, widths), list(unread.weights),
        lambda name: checkpoint.cut(unread, shape, kept, name),
    )  # fmt: skip
    smaller = checkpoint.adopt(unread, tmp_path / "small")
    np.testing.assert_allclose(answers(smaller), answers(unread), atol=2e-5)


@pytest.mark.parametrize("method", PASSES)
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "bert", "distilbert", "phi3", "gpt2"])
def test_a_pruned_model_is_a_plain_folder_that_transformers_loads(
    method: type[WidthOptions], architecture: str, tmp_path: Path
) -> None:
    described = KINDS[architecture]
    task = "classification" if "classification" in described.tasks else described.tasks[0]
    model = cells.make(described, task, tmp_path / "model")
    chosen = method(ratio=0.3, multiple=16, **FEW[method])
    result = chosen(model, tiny.work(tmp_path / "work", tiny.corpus()))
    loaded = cells.AUTO[task].from_pretrained(result.model.folder, dtype=torch.float32)
    module = Reference(result.model).body
    ids = torch.tensor([IDS])
    with torch.inference_mode():
        found, expected = loaded.eval()(input_ids=ids).logits, module(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_the_budget_holds_for_the_blocks_parameters(architecture: str, tmp_path: Path) -> None:
    described = KINDS[architecture]
    task = "classification" if architecture == "bert" else "text-generation"
    model = cells.make(described, task, tmp_path / "model")
    result = PruneL2(ratio=0.5, multiple=16)(model, tiny.work(tmp_path / "work"))

    def in_blocks(one: Model) -> int:
        layer = shape_of(one, 16).layer
        infos = one.weights.infos.items()
        return sum(int(np.prod(i.shape)) for name, i in infos if name.startswith(layer))

    assert in_blocks(result.model) <= 0.5 * in_blocks(model)


def test_a_budget_in_parameters_counts_all_of_them(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    goal = int(model.parameters * 0.7)
    pruned = PruneL2(max_params=goal, multiple=16)(model, tiny.work(tmp_path / "work")).model
    assert 0.5 * goal < pruned.parameters <= goal


def test_a_budget_in_megabytes_is_of_the_weights_file(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    size = 4 * model.parameters / 1e6 * 0.8
    pruned = PruneL2(max_size=size, multiple=16)(model, tiny.work(tmp_path / "work")).model
    assert (pruned.folder / "model.safetensors").stat().st_size < size * 1e6 + 10_000


@pytest.mark.parametrize("ratio", [0.2, 0.35, 0.5, 0.6])
def test_no_lever_could_be_let_go_within_the_budget(ratio: float, tmp_path: Path) -> None:
    model = cells.make(KINDS["bert"], "classification", tmp_path / "model")
    shape, budget = shape_of(model, 8), Budget(ratio=ratio, floor=0.1)
    even = {kind: 1 - np.arange(units + 1) / units for kind, units in shape.widths.items()}
    widths = widths_for(model, shape, budget, shape.levers, even)
    for lever in shape.levers:
        wider = {kind: width + lever.units.get(kind, 0) for kind, width in widths.items()}
        full = any(wider[kind] > units for kind, units in shape.widths.items())
        assert full or budget.takes(model, shape, wider) > budget.goal(model, shape)


def test_what_a_large_last_step_cut_too_much_goes_back(tmp_path: Path) -> None:
    model = cells.make(KINDS["bert"], "classification", tmp_path / "model")
    shape = shape_of(model, 8)
    narrow = {**shape.widths, MLP: shape.widths[MLP] // 4}  # its floor
    goal = Budget(max_params=1).takes(model, shape, narrow) - 1  # one more lever has to be pulled
    lost = {kind: 1 - np.arange(units + 1) / units for kind, units in shape.widths.items()}
    lost[MLP] = np.zeros_like(lost[MLP])  # so that it is pulled first
    budget = Budget(max_params=goal, floor=0.25)
    widths = widths_for(model, shape, budget, shape.levers, lost)
    assert budget.takes(model, shape, widths) <= goal
    assert widths[MLP] > narrow[MLP]


def test_what_a_plan_says_is_what_comes_where_one_lever_is_pulled(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    chosen = PruneL2(ratio=0.3, levers=("mlp",), multiple=16)
    expected = chosen.headers(model).weights.infos
    pruned = chosen(model, tiny.work(tmp_path / "work")).model
    assert {n: i.shape for n, i in expected.items()} == {
        n: i.shape for n, i in pruned.weights.infos.items()
    }


def test_every_tensor_has_a_row_that_says_what_became_of_it(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    result = PruneL2(ratio=0.3, levers=("mlp",))(model, tiny.work(tmp_path / "work"))
    rows = {row.name: row for row in result.layers}
    assert rows.keys() == set(model.weights)
    assert rows["model.layers.0.mlp.down_proj.weight"].detail == "[64, 128] -> [64, 64]"
    assert rows["model.norm.weight"].action == "skipped"


@pytest.mark.parametrize("method", PASSES)
def test_strong_neurons_stay(method: type[WidthOptions], tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    name = "model.layers.0.mlp.{}_proj.weight"
    changed = {name.format(which): model.weights[name.format(which)].clone() for which in
               ("gate", "up", "down")}  # fmt: skip
    strong = torch.arange(3, 128, 4)
    weak = torch.tensor([unit for unit in range(128) if unit % 4 != 3])
    for which, tensor in changed.items():
        tensor[(slice(None), weak) if "down" in which else weak] *= 0.1
    model = save(model, tmp_path / "changed", changed)
    chosen = method(ratio=0.45, levers=("mlp",), multiple=32, **FEW[method])
    pruned = chosen(model, tiny.work(tmp_path / "work", tiny.corpus())).model
    assert pruned.config["intermediate_size"] == 32
    expected = changed[name.format("up")][strong]
    assert torch.equal(pruned.weights[name.format("up")], expected)


def test_an_encoder_loses_heads_and_width_together(tmp_path: Path) -> None:
    model = cells.make(KINDS["bert"], "classification", tmp_path / "model")
    chosen = PruneL2(ratio=0.5, levers=("hidden",), multiple=16)
    config = chosen(model, tiny.work(tmp_path / "work")).model.config
    assert (config["hidden_size"], config["num_attention_heads"]) == (32, 2)


def test_vectors_keep_their_length(tmp_path: Path) -> None:
    model = load(tiny.bert(tmp_path / "model"))
    pruned = PruneL2(ratio=0.3)(model, tiny.work(tmp_path / "work")).model
    assert Reference(pruned).embed([IDS]).shape == Reference(model).embed([IDS]).shape


def test_a_class_number_and_its_text_stay_together(tmp_path: Path) -> None:
    from edgecompile.calibration.batches import labels_of, text_batches
    from edgecompile.text.parts import Document

    model = cells.make(KINDS["bert"], "classification", tmp_path / "model")
    texts = ["the quick brown fox jumps over the lazy dog", "the", "numbers and symbols", "dog"]
    labels = ["LABEL_1", "LABEL_0", "LABEL_1", "LABEL_0"]
    documents = [Document(t, label) for t, label in zip(texts, labels, strict=True)]
    batch = text_batches(model, documents, 4, 32)[0]
    lengths = batch.inputs["attention_mask"].sum(1)
    truth = labels_of(model, documents, 4, 32)[0]
    assert [bool(n > 4) for n in lengths] == [bool(t) for t in truth]


def test_equal_units_are_chosen_by_their_place() -> None:
    assert strongest(np.array([1.0, 2.0, 1.0, 2.0]), 3).tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "0 budgets"),
        ({"ratio": 0.5, "max_params": 1000}, "2 budgets"),
        ({"ratio": 1.5}, "ratio = 1.5"),
        ({"ratio": float("nan")}, "ratio = nan"),
        ({"ratio": 0.5, "floor": -1.0}, "floor = -1.0"),
        ({"ratio": 0.5, "levers": ("width",)}, "'width'"),
        ({"ratio": 0.5, "multiple": 0}, "multiple = 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        PruneL2(**options)


def test_a_lever_that_a_task_lacks_names_those_that_it_has(tmp_path: Path) -> None:
    model = load(tiny.bert(tmp_path / "model"))
    with pytest.raises(UsageError, match="one of mlp"):
        PruneL2(ratio=0.3, levers=(HIDDEN,)).headers(model)


def test_a_budget_below_the_floor_says_which_levers_there_were(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    with pytest.raises(UnsupportedError, match="heads, mlp, hidden are at the floor"):
        PruneL2(ratio=0.9, floor=0.5).headers(model)


def test_an_architecture_without_a_description_is_refused_with_those_that_have_one(
    tmp_path: Path,
) -> None:
    other = cells.Kind("GPT-NeoX", "gpt_neox", (cells.DECODER,))
    model = cells.make(other, cells.DECODER, tmp_path / "model")
    with pytest.raises(UnsupportedError, match="one of bert, distilbert"):
        PruneL2(ratio=0.3).headers(model)


def test_heads_that_share_a_table_of_distances_are_not_pruned(tmp_path: Path) -> None:
    model = cells.make(KINDS["mpnet"], "classification", tmp_path / "model")
    with pytest.raises(UnsupportedError, match="cut together"):
        PruneL2(ratio=0.3).headers(model)


def test_weights_that_are_not_finite_are_no_importance(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    name = "model.layers.0.mlp.up_proj.weight"
    bad = save(model, tmp_path / "bad", {name: torch.full_like(model.weights[name], torch.nan)})
    with pytest.raises(UsageError, match=r"importance of mlp\.0 is not finite"):
        PruneL2(ratio=0.3)(bad, tiny.work(tmp_path / "work"))


def test_a_large_checkpoint_is_written_in_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 100_000)
    saved = save(model, tmp_path / "sharded", {})
    index = json.loads((tmp_path / "sharded" / checkpoint.INDEX).read_text())
    assert set(index["weight_map"]) == set(model.weights)
    assert np.array_equal(answers(saved), answers(model))


def test_pruning_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    chosen = PruneGradient(ratio=0.3, multiple=16, texts=8, length=32)
    digests = {
        chosen(model, tiny.work(tmp_path / name, tiny.corpus())).model.source.digest
        for name in ("one", "two")
    }
    assert len(digests) == 1


def test_the_number_of_cores_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, digests = load(tiny.llama(tmp_path / "model")), set()
    chosen = PruneGradient(ratio=0.3, multiple=16, texts=16, length=32)
    for cores in (1, 3):
        monkeypatch.setattr("edgecompile.numerics.parallel.usable_cores", lambda n=cores: n)
        work = tiny.work(tmp_path / str(cores), tiny.corpus())
        digests.add(chosen(model, work).model.source.digest)
    assert len(digests) == 1


def test_the_origin_of_a_model_pruned_twice_is_what_came_in(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model"))
    once = PruneL2(ratio=0.2)(model, tiny.work(tmp_path / "once")).model
    twice = PruneL2(ratio=0.2)(once, tiny.work(tmp_path / "twice")).model
    assert twice.origin is model


def test_unread_weights_have_no_values(tmp_path: Path) -> None:
    planned = PruneL2(ratio=0.3).headers(load(tiny.llama(tmp_path / "model")))
    assert isinstance(planned.weights, Weights)
