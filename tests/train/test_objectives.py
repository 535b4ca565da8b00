"""Each objective on a tiny model of its kind: it learns, and saves what build can read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgecompile import sources
from edgecompile.backends.gguf import Gguf
from edgecompile.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.runtime.tokens import Tokens
from edgecompile.train import lora, precision
from edgecompile.train.loop import Row
from edgecompile.train.objectives.tokens import first_tokens
from edgecompile.train.run import Request, Trained, train
from tests import tiny
from tests.train import small

FAST = ("train.batch=8", "train.lr=3e-3", "train.threads=1", "train.warmup=0", "train.held_out=0.2")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.bert(tmp_path_factory.mktemp("source") / "encoder")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("source") / "decoder")


def write(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def run(model: Path, out: Path, data: Path | None, *settings: str, **changes: Any) -> Trained:
    request = Request(str(model), out, data, settings=(*FAST, *settings), **changes)
    return train(request, lambda _row: None, lambda *_: None)


def losses(done: Trained) -> list[float]:
    lines = (done.report / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def fell(done: Trained, share: float = 0.7) -> bool:
    found = losses(done)
    return sum(found[-5:]) < share * sum(found[:5])


def described(folder: Path) -> tuple[str, str]:
    model = sources.load(sources.resolve(str(folder)), lambda *_: None)
    return model.task, model.licence.id


def words(seed: int, count: int) -> list[str]:
    return random.Random(seed).choices(tiny.TEXT.split(), k=count)


def tagged(count: int) -> list[dict[str, Any]]:
    """Animals are entities of one word."""
    rows = []
    for index in range(count):
        text = words(index, 6)
        tags = ["B-ANIMAL" if word in ("fox", "dog") else "O" for word in text]
        rows.append({"text": " ".join(text), "label": tags})
    return rows


def pairs(count: int, label: Callable[[bool], Any] | None = None) -> list[dict[str, Any]]:
    """Two texts of the same class belong together, or, every other row, of two classes."""
    found = []
    for index, row in enumerate(small.rows(count)):
        same = label is None or index % 2 == 0
        other = small.rows(6, seed=index + 1)[(index + (0 if same else 1)) % 3]
        both = {"text": row["text"], "other": other["text"]}
        found.append(both | ({"label": label(same)} if label else {}))
    return found


def test_tags_are_learned_and_saved_for_build(encoder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", tagged(60))
    done = run(encoder, tmp_path / "out", data, "train.steps=60")
    assert fell(done, 0.5)
    assert done.summary["held_out"]["f1"] > 0.8
    assert described(done.folder) == ("token-classification", "apache-2.0")


def test_pairs_are_classified(encoder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", pairs(60, lambda same: "same" if same else "other"))
    done = run(
        encoder, tmp_path / "out", data, "train.steps=40", "train.pair=other",
        task="classification",
    )  # fmt: skip
    assert fell(done, 0.95)
    assert described(done.folder)[0] == "classification"


def test_scores_of_pairs_make_a_ranking_model(encoder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", pairs(60, lambda same: 0.9 if same else 0.1))
    done = run(
        encoder, tmp_path / "out", data, "train.steps=40", "train.pair=other", task="text-ranking"
    )
    assert fell(done, 0.95)
    assert described(done.folder)[0] == "text-ranking"


@pytest.mark.parametrize("label", [None, lambda same: 1.0 if same else 0.0])
def test_embeddings_of_pairs_come_near(
    label: Callable[[bool], Any] | None, encoder: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "rows.jsonl", pairs(60, label))
    done = run(encoder, tmp_path / "out", data, "train.steps=40", "train.pair=other")
    assert fell(done, 0.95)
    assert described(done.folder)[0] == "embedding"
    assert (done.folder / "1_Pooling" / "config.json").is_file()


def test_a_language_model_learns_its_texts(decoder: Path, tmp_path: Path) -> None:
    data = tmp_path / "prose.txt"
    data.write_text("\n\n".join(" ".join(words(seed, 40)) for seed in range(30)))
    done = run(decoder, tmp_path / "out", data, "train.steps=30", "train.length=32")
    assert fell(done)
    assert done.summary["held_out"]["perplexity"] > 1
    assert described(done.folder)[0] == "text-generation"


def test_answers_are_learned_and_their_prompts_are_not(decoder: Path, tmp_path: Path) -> None:
    rows = [{"text": " ".join(words(n, 5)), "answer": "the lazy dog"} for n in range(40)]
    data = write(tmp_path / "rows.jsonl", rows)
    done = run(decoder, tmp_path / "out", data, "train.steps=40", "train.pair=answer")
    assert losses(done)[-1] < 0.3  # the answer is always the same, the prompts never are


def test_hidden_words_are_guessed(encoder: Path, tmp_path: Path) -> None:
    data = tmp_path / "prose.txt"
    data.write_text("\n\n".join(" ".join(words(seed, 12)) for seed in range(60)))
    done = run(encoder, tmp_path / "out", data, "train.steps=40", task="fill-mask")
    assert fell(done, 0.9)
    assert described(done.folder)[0] == "fill-mask"


def several(folder: Path, temperature: float) -> Path:
    write(folder / "topics.jsonl", small.rows(60))
    write(folder / "tags.jsonl", tagged(20))
    file = folder / "several.toml"
    file.write_text(
        f"[source]\npath = 'encoder'\n[train]\ntemperature = {temperature}\n"
        "[train.tasks.topic]\ndata = 'topics.jsonl'\n"
        "[train.tasks.tags]\ndata = 'tags.jsonl'\ntask = 'token-classification'\nweight = 0.5\n"
    )
    return file


def test_several_heads_share_one_body(tmp_path: Path) -> None:
    small.bert(tmp_path / "encoder")
    done = run(several(tmp_path, 1.0), tmp_path / "out", None, "train.steps=60")
    topic, tags = (load_file(done.folder / n / "model.safetensors") for n in ("topic", "tags"))
    shared = [name for name in topic if name.startswith("bert.") and name in tags]
    assert len(shared) > 30
    assert all(topic[name].equal(tags[name]) for name in shared)


def test_every_head_is_a_model_that_build_takes(tmp_path: Path) -> None:
    small.bert(tmp_path / "encoder")
    done = run(several(tmp_path, 1.0), tmp_path / "out", None, "train.steps=4")
    found = [described(done.folder / name)[0] for name in ("topic", "tags")]
    assert found == ["classification", "token-classification"]


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.75), (1e3, 0.5)])
def test_tasks_are_drawn_by_size_and_temperature(
    temperature: float, share: float, tmp_path: Path
) -> None:
    from edgecompile.train.objectives.several import Several

    class Sized:
        def __init__(self, rows: int) -> None:
            self.rows = rows

    made: Any = {"many": Sized(300), "few": Sized(100)}
    tasks = Several(made, {}, temperature)._tasks(4000)
    assert float((tasks == 0).mean()) == pytest.approx(share, abs=0.03)


def test_adapters_learn_and_are_merged_into_a_plain_model(encoder: Path, tmp_path: Path) -> None:
    data = small.data_file(tmp_path)
    done = run(encoder, tmp_path / "out", data, "train.steps=40", "train.lora.rank=4")
    weights = load_file(done.folder / "model.safetensors")
    assert not [name for name in weights if "lora" in name]
    assert fell(done, 0.9)
    assert described(done.folder)[0] == "classification"


def test_adapters_leave_embeddings_and_norms_as_they_were(encoder: Path, tmp_path: Path) -> None:
    data = small.data_file(tmp_path)
    done = run(encoder, tmp_path / "out", data, "train.steps=4", "train.lora.rank=4")
    old, new = (load_file(f / "model.safetensors") for f in (encoder, done.folder))
    name = "embeddings.word_embeddings.weight"
    assert new[f"bert.{name}"].equal(old[name])


class KilledError(Exception):
    """What stands for the end of the process."""


@pytest.mark.parametrize("kind", ["adapters", "several heads", "hidden words"])
def test_a_stopped_run_goes_on_to_the_same_weights(kind: str, tmp_path: Path) -> None:
    small.bert(tmp_path / "encoder", hidden_dropout_prob=0.3)
    source, data, task = tmp_path / "encoder", small.data_file(tmp_path), "classification"
    settings = (*FAST, "train.steps=7", "train.save_every=2", "train.evaluate_every=3")
    if kind == "adapters":
        settings += ("train.lora.rank=4", "train.lora.dropout=0.1", "train.keep=best")
    if kind == "several heads":
        source = several(tmp_path, 1.0)
    if kind == "hidden words":
        task = "fill-mask"
    whole, half = (
        Request(str(source), tmp_path / name, data, task=task, settings=settings, resume=True)
        for name in ("whole", "half")
    )

    def stop(row: Row) -> None:
        if row.step == 6:
            raise KilledError

    train(whole, lambda _row: None, lambda *_: None)
    with pytest.raises(KilledError):
        train(half, stop, lambda *_: None)
    assert train(half, lambda _row: None, lambda *_: None).summary["resumed_at"] == 4
    files = sorted(file.relative_to(whole.out) for file in whole.out.rglob("*.safetensors"))
    assert files
    assert all((whole.out / f).read_bytes() == (half.out / f).read_bytes() for f in files)


def test_a_target_that_is_not_there_is_refused_with_the_names(
    encoder: Path, tmp_path: Path
) -> None:
    settings = ("train.lora.rank=4", "train.lora.targets=['q_proj']")
    with pytest.raises(UsageError, match="names are: dense, key, query, value"):
        run(encoder, tmp_path / "out", small.data_file(tmp_path), *settings)


def test_a_gguf_source_is_trained_as_the_model_it_decodes_to(
    decoder: Path, tmp_path: Path
) -> None:
    model = sources.load(sources.resolve(str(decoder)), lambda *_: None)
    (tmp_path / "gguf").mkdir()
    found = Gguf().export(model, tmp_path / "gguf", lambda *_: None)
    data = tmp_path / "prose.txt"
    data.write_text("\n\n".join(" ".join(words(seed, 40)) for seed in range(30)))
    file = tmp_path / "gguf" / found.file
    done = run(file, tmp_path / "out", data, "train.steps=30", "train.length=32")
    assert fell(done)
    assert described(done.folder)[0] == "text-generation"


def test_tags_that_do_not_fit_are_refused_by_line(encoder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [*tagged(3), {"text": "a b", "label": ["O"]}])
    with pytest.raises(BadInputError, match=r"rows\.jsonl:4: 1 tags for 2 words"):
        run(encoder, tmp_path / "out", data)


def test_a_score_outside_0_to_1_is_refused_by_line(encoder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", pairs(8, lambda _: 4.5))
    with pytest.raises(BadInputError, match=r"the label 4\.5; expected a number from 0 to 1"):
        run(encoder, tmp_path / "out", data, "train.pair=other", task="text-ranking")


def test_a_task_without_training_is_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="training for image-classification"):
        run(encoder, tmp_path / "out", small.data_file(tmp_path), task="image-classification")


def test_a_word_is_tagged_at_its_first_token(encoder: Path) -> None:
    [found] = Tokens(encoder / "tokenizer.json").encode_whole(["fox, dog"])
    assert len(found.ids) == 5  # [CLS] fox , dog [SEP]
    assert first_tokens("fox, dog", found) == [-1, 0, -1, 1, -1]


def test_float8_layers_learn_and_keep_their_weights_names(encoder: Path, tmp_path: Path) -> None:
    module, objective = small.classifier(encoder, small.data_file(tmp_path))
    names = set(module.state_dict())
    precision.to_fp8(module, emulate=True)
    kinds = [type(one).__name__ for one in module.modules()]
    assert kinds.count("Float8Linear") == 12
    batch = objective.collate(objective.items(objective.draws(0, 16)))
    optimizer, found = torch.optim.AdamW(module.parameters(), 1e-3), []
    for _ in range(20):
        loss, _ = objective.loss(module, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    assert found[-1] < found[0] / 2
    assert set(module.state_dict()) == names


def test_heads_are_what_is_beside_the_body(encoder: Path, tmp_path: Path) -> None:
    module, _ = small.classifier(encoder, small.data_file(tmp_path))
    assert lora.head_names(module) == ["classifier"]
