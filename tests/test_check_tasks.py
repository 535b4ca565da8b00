"""Checks of the other tasks on tiny models in their real engines."""
from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from edgecompile import bundle, registry, sources, target
from edgecompile.check import CheckReport, Limits, check_bundle
from edgecompile.model import Model
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.recipe import PassChoice
from edgecompile.reference import Reference
from edgecompile.text import Corpus, Document, default_corpus
from tests.tiny import work

FEW = Limits(
    texts=120, tokens=512, window=128, fidelity_tokens=128, repeats=3, new_tokens=8, threads=2
)
LABELS = ["bad", "fair", "good"]
MODULE = '''
import torch

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one = torch.nn.Linear(64, 256)
        self.two = torch.nn.Linear(256, 64)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)))

def build():
    torch.manual_seed(5)
    return Tiny().eval(), (torch.randn(4, 64),)
'''


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def built(model: Model, name: str, folder: Path) -> Path:
    """A sealed bundle of the model, rounded to 8 bits, for the target of that name."""
    device = target.find(name)
    result = QuantizeRtn(bits=8)(model, work(folder / "codes"))
    files, out = folder / "files", folder / "bundle"
    files.mkdir()
    out.mkdir()
    backend = registry.create("backends", device.backend, device.options, "test")
    export = backend.export(result.model, files, quiet)
    passes = ((PassChoice("quantize", "quantize_rtn", {"bits": 8}), result),)
    bundle.assemble(bundle.Contents(result.model, device, "", export, passes), files, out)
    return out


def verdicts(report: CheckReport) -> dict[str, str]:
    return {row.metric: row.verdict for row in report.rows}


@pytest.fixture(scope="module")
def corpus(cache_folder: Path) -> Corpus:
    return default_corpus()


@pytest.fixture(scope="module")
def classifier(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random BERT with three classes and MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("classifier") / "tiny"
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=512, initializer_range=0.3,
        id2label=dict(enumerate(LABELS)),
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(minilm_folder / name, folder / name)
    return sources.load(sources.resolve(str(folder), task="classification"), quiet)


def labelled(model: Model, corpus: Corpus) -> Corpus:
    """Prose with the source's own answers as labels: the 120 texts that it is surest of."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.folder)
    texts = [document.text for document in corpus.held_out]
    scores = Reference(model).classify(tokenizer(texts, truncation=True)["input_ids"])
    ordered = np.sort(scores, axis=1)
    surest = np.argsort(ordered[:, -2] - ordered[:, -1])[:120]
    documents = [Document(texts[i], LABELS[int(scores[i].argmax())]) for i in surest]
    return dataclasses.replace(corpus, held_out=tuple(documents))


@pytest.mark.slow
def test_a_classifier_is_judged_by_its_accuracy_where_texts_have_labels(
    classifier: Model, corpus: Corpus, tmp_path: Path
) -> None:
    sealed = built(classifier, "cpu", tmp_path)
    known = labelled(classifier, corpus)
    prose = tuple(dataclasses.replace(document, label=None) for document in known.held_out)
    unlabelled = dataclasses.replace(known, held_out=prose)
    plain = check_bundle(sealed, classifier, unlabelled, FEW, quiet)
    assert {"class_agreement"} == {"class_agreement", "accuracy_ratio"} & verdicts(plain).keys()
    proven = check_bundle(sealed, classifier, known, FEW, quiet)
    assert {"class_agreement", "accuracy_ratio"} <= verdicts(proven).keys()
    assert [row for row in proven.rows if row.verdict == "fail"] == []
    assert proven.value("accuracy_source") == 1.0


@pytest.mark.slow
def test_a_module_is_compared_on_its_examples_and_changes_of_them(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny_for_check.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    model = sources.load(sources.resolve("tiny_for_check:build"), quiet)
    report = check_bundle(built(model, "cpu", tmp_path), model, corpus, FEW, quiet)
    found = verdicts(report)
    assert report.verdict == "pass", found
    assert (found["relative_error"], found["export_relative_error"]) == ("pass", "pass")
    assert next(r.samples for r in report.rows if r.metric == "relative_error") == 8


def test_a_bundle_without_an_engine_is_unproven(
    classifier: Model, corpus: Corpus, tmp_path: Path
) -> None:
    report = check_bundle(built(classifier, "null", tmp_path), classifier, corpus, FEW, quiet)
    found = verdicts(report)
    assert report.verdict == "unproven"
    assert (found["codes_differing"], found["class_agreement"]) == ("pass", "unproven")


@pytest.mark.slow
def test_a_decoder_is_compared_token_by_token(
    smollm2_gguf: Path, corpus: Corpus, tmp_path: Path
) -> None:
    model = sources.load(sources.resolve(str(smollm2_gguf)), quiet)
    report = check_bundle(built(model, "gguf", tmp_path), model, corpus, FEW, quiet)
    found = verdicts(report)
    wanted = {
        "kl_mean", "perplexity_ratio", "top1_agreement", "export_kl_mean",
        "tokenizer_differences", "chat_template_differing", "codes_differing", "facts_differing",
    }  # fmt: skip
    assert {metric for metric in wanted if found[metric] != "pass"} == set()
    assert {"first_token", "decode_speed", "peak_memory"} <= found.keys()
    assert np.isfinite(report.value("kl_p999") or np.nan)
