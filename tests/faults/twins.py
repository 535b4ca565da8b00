"""Clean bundles that a fault is planted into: small models, of which attention and norms matter."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgecompile import bundle, golden, registry, sources, target
from edgecompile.check import Limits
from edgecompile.model import Model
from edgecompile.passes import PassResult
from edgecompile.passes.quantize_gptq import QuantizeGptq
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.recipe import PassChoice
from edgecompile.text import Corpus
from edgecompile.text.parts import Document
from tests import tiny

if TYPE_CHECKING:
    import torch

LIMITS = Limits(
    texts=320, tokens=2000, window=200, fidelity_texts=32, fidelity_tokens=1000, repeats=1,
    new_tokens=4, threads=2, allow=("no-gain",),
)  # fmt: skip
LABELS = ["bad", "fair", "good"]
WORDS = tiny.TEXT.replace(",", "").split()


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Twin:
    """How a clean bundle is made: `model` is a name in MODELS; `method` rtn, gptq or empty."""

    model: str
    backend: str
    method: str = ""
    bits: Literal[4, 8] = 8

    @property
    def name(self) -> str:
        """`decoder-gguf-gptq4`, `encoder-gguf-float`."""
        return f"{self.model}-{self.backend}-{self.method}{self.bits if self.method else 'float'}"


class Clean:
    """A twin's source, its passes' result and its sealed bundle, in a folder of its own."""

    def __init__(self, twin: Twin, source: Path, folder: Path) -> None:
        self.twin, self.source_folder, self._folder = twin, source, folder
        self.corpus = CORPORA[twin.model]()

    @cached_property
    def source(self) -> Model:
        """The model that a check compares with."""
        return loaded(self.source_folder, self.twin.model)

    @cached_property
    def bundle(self) -> Path:
        """The sealed bundle; nobody changes it."""
        return self.built(self.source, self._folder / "clean")

    @cached_property
    def result(self) -> PassResult | None:
        """The source's codes."""
        return self._quantized(self.source, self._folder / "codes")

    def built(self, model: Model, folder: Path) -> Path:
        """A bundle of that model by the twin's recipe."""
        own = model is self.source
        result = self.result if own else self._quantized(model, folder / "codes")
        return self.exported(result.model if result else model, result, folder)

    def exported(self, model: Model, result: PassResult | None, folder: Path) -> Path:
        """A bundle of a model and its codes, as they are."""
        files, out = folder / "files", folder / "bundle"
        files.mkdir(parents=True)
        out.mkdir()
        device = dataclasses.replace(target.find("cpu"), backend=self.twin.backend, options={})
        backend = registry.create("backends", self.twin.backend, {}, "twins")
        export = backend.export(model, files, quiet)
        choice = PassChoice("quantize", f"quantize_{self.twin.method}", {"bits": self.twin.bits})
        passes = ((choice, result),) if result else ()
        bundle.assemble(bundle.Contents(model, device, "", export, passes), files, out)
        golden.add(out)
        return out

    def _quantized(self, model: Model, folder: Path) -> PassResult | None:
        if not self.twin.method:
            return None
        work = tiny.work(folder, self.corpus)
        if self.twin.method == "gptq":
            gptq = QuantizeGptq(bits=self.twin.bits, texts=8, length=96, overrides={})
            return gptq(model, work)
        return QuantizeRtn(bits=self.twin.bits)(model, work)


def loaded(folder: Path, model: str) -> Model:
    """A source folder as `build` and `check` load it."""
    task = {"classifier": "classification"}.get(model, "")
    return sources.load(sources.resolve(str(folder), task=task), quiet)


class Clones:
    """All clean twins of a run, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Clean] = {}

    def get(self, twin: Twin) -> Clean:
        """The twin, with its model made once for all its engines."""
        if twin.name not in self._known:
            source = self._folder / "models" / twin.model
            if not source.is_dir():
                MODELS[twin.model](source)
            self._known[twin.name] = Clean(twin, source, self._folder / twin.name)
        return self._known[twin.name]


# Models


def encoder(folder: Path) -> Path:
    """A BERT for embeddings whose norms, biases and attention all have a say."""
    import torch

    tiny.bert(folder)
    _changed(folder, _loud(torch.Generator().manual_seed(3)))
    return folder


def classifier(folder: Path) -> Path:
    """A BERT that has learned which of three words a text names first."""
    import torch
    import transformers

    size = tiny.word_piece(folder)
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=128, initializer_range=0.1,
        id2label=dict(enumerate(LABELS)), hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(folder)
    tiny.card(folder)
    _train_classifier(model, folder)
    model.save_pretrained(folder)
    return folder


def decoder(folder: Path) -> Path:
    """A Llama that has learned to go on with words that it has read before."""
    import transformers

    tiny.llama(folder, rope_theta=10000.0)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    _train_decoder(model, folder)
    model.save_pretrained(folder)
    return folder


def _loud(random_: torch.Generator) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Larger matrices, and norms and biases that are not all alike."""
    import torch

    def louder(name: str, tensor: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(tensor.shape, generator=random_)
        if "LayerNorm.weight" in name:
            return 1 + 0.2 * noise
        if name.endswith("bias"):
            return 0.3 * noise
        return tensor * (1 if "embeddings" in name else 2)

    return louder


def _changed(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    """Every tensor of a folder's weights through `change`."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = {name: change(name, one).contiguous() for name, one in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})


def _train_decoder(model: Any, folder: Path, steps: int = 500) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts, best = _repeating(3000, 5), torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = tokenizer("\n\n".join(texts))["input_ids"]
    usable = torch.tensor(ids[: len(ids) // 96 * 96]).reshape(-1, 96)
    for step in range(steps):
        batch = usable[(step * 16) % (len(usable) - 16) :][:16]
        model(input_ids=batch, labels=batch).loss.backward()
        best.step()
        best.zero_grad()


def _train_classifier(model: Any, folder: Path, steps: int = 150) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    best = torch.optim.AdamW(model.parameters(), lr=1e-3)
    texts = [one.text for one in classified(steps * 32, 7)]
    for step in range(steps):
        batch = texts[step * 32 : step * 32 + 32]
        inputs = tokenizer(batch, return_tensors="pt", padding=True, truncation=True)
        truth = torch.tensor([LABELS.index(label_of(text)) for text in batch])
        model(**inputs, labels=truth).loss.backward()
        best.step()
        best.zero_grad()
    model.eval()


# Texts


def _repeating(count: int, seed: int) -> list[str]:
    """Texts of a few words, said again and again."""
    order = random.Random(seed)
    return [
        " ".join(order.choices(WORDS, k=order.randint(4, 8)) * order.randint(2, 4))
        for _ in range(count)
    ]


def label_of(text: str) -> str:
    """By which of three words comes first."""
    first = min((text.find(f" {word} ") % 10**6, word) for word in ("fox", "dog", "numbers"))[1]
    return dict(zip(("fox", "dog", "numbers"), LABELS, strict=True))[first]


def classified(count: int, seed: int) -> list[Document]:
    """Texts with each of three words in some order among others."""
    order, others = random.Random(seed), [w for w in WORDS if w not in ("fox", "dog", "numbers")]
    found = []
    for _ in range(count):
        words = order.choices(others, k=order.randint(3, 24))
        for word in order.sample(("fox", "dog", "numbers"), 3):
            words.insert(order.randint(0, len(words)), word)
        found.append(Document(f"so {' '.join(words)} end"))
    return found


def _corpus(make: Callable[[int], list[Document]]) -> Corpus:
    return Corpus("tiny", *(tuple(make(seed)) for seed in (11, 12, 13)))


def _prose(seed: int) -> list[Document]:
    """Texts of 3 to 60 words."""
    order = random.Random(seed)
    return [Document(" ".join(order.choices(WORDS, k=order.randint(3, 60)))) for _ in range(320)]


MODELS: Mapping[str, Callable[[Path], Path]] = {
    "encoder": encoder, "classifier": classifier, "decoder": decoder,
}  # fmt: skip
CORPORA: Mapping[str, Callable[[], Corpus]] = {
    "encoder": lambda: _corpus(_prose),
    "classifier": lambda: _corpus(lambda seed: classified(300, seed)),
    "decoder": lambda: _corpus(lambda seed: [Document(t) for t in _repeating(120, seed)]),
}


def unseen_token(clean: Clean) -> int:
    """The last token of the vocabulary that no held-out text has."""
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(clean.source_folder / "tokenizer.json"))
    texts = [document.text for document in clean.corpus.held_out]
    seen = {token for encoding in tokens.encode_batch(texts) for token in encoding.ids}
    return max(set(range(tokens.get_vocab_size())) - seen)


def copied(folder: Path, to: Path) -> Path:
    """A folder of files, to be changed."""
    shutil.copytree(folder, to)
    return to


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json as it is."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    return found
