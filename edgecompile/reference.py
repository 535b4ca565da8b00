"""The source model in torch, float32: what every bundle is compared with, and exported from."""
from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.errors import (
    BadInputError,
)
from edgecompile.model import Model
from edgecompile.modules import build_entry_point, build_transformer, flat_outputs
from edgecompile.numerics.schemes import Float32, QuantizedTensor
from edgecompile.tasks import IMAGE_TEXT, TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 16  # texts or pictures


class Reference:
    """A model's torch module with its weights, in evaluation mode; safe for one thread.

    `unused` are source tensors that the module has no place for (a pooler, position ids). With
    `lean`, a large model's layers are read from the file each time they run.
    """

    def __init__(self, model: Model, attention: str = "eager", lean: bool = False) -> None:
        self.model = model
        self.example_inputs: dict[str, NDArray[Any]] = {}
        if model.entry_point:
            self.body, self.example_inputs, _ = build_entry_point(model.entry_point)
        else:
            self.body = build_transformer(model, attention)
        from edgecompile.numerics.swap import load_weights

        where = model.source.reference
        self.unused, self.feeds = load_weights(self.body, model.weights, where, lean)
        self.body.eval().requires_grad_(False)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of `torch_module()`'s inputs, in the order of its forward."""
        if TASKS[self.model.task].takes == "arrays":
            return tuple(self.example_inputs)
        accepted = inspect.signature(self.body.forward).parameters
        typed = int(self.model.config.get("type_vocab_size") or 0) > 1
        extra = ("token_type_ids",) if typed and "token_type_ids" in accepted else ()
        return ("input_ids", "attention_mask", *extra)

    def torch_module(self) -> nn.Module:
        """The module to export: pooled and normalized embeddings, or logits, or the user's own."""
        from edgecompile.numerics.pooled import Logits, PictureLogits, PooledEncoder

        if self.model.task == "module":
            return self.body
        if TASKS[self.model.task].takes == "picture":
            return PictureLogits(self.body).eval()
        if self.model.task != "embedding":
            return Logits(self.body).eval()
        if self.model.pooling is None:
            raise BadInputError(self.model.name, "an embedding model without pooling")
        return PooledEncoder(self.body, self.model.pooling).eval()

    def _answering(self, what: str) -> nn.Module:
        """The module that answers a text or a picture: of a model of both, transformers' own."""
        if self.model.task != IMAGE_TEXT:
            return self.torch_module()
        from edgecompile.numerics.towers import PictureFeatures, TextFeatures

        return (TextFeatures if what == "text" else PictureFeatures)(self.body).eval()

    @contextmanager
    def quantized(
        self, codes: Mapping[str, QuantizedTensor], replaced: Mapping[str, Float32] | None = None
    ) -> Iterator[Reference]:
        """Inside, this reference computes with `codes`, dequantized, and the `replaced` floats."""
        from edgecompile.numerics.swap import swapped

        with swapped(self.body, codes, self.feeds, replaced):
            yield self

    def embed(self, ids: Sequence[Sequence[int]]) -> Float32:
        """Embeddings float32 [texts, dim] of token ids, special ones included.

        Texts of like length run together, padded to the longest of BATCH and masked.
        """
        found = self.rows(ids)
        return np.stack(found) if found else np.zeros((0, 0), "f4")

    def rows(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> list[Float32]:
        """As `embed`, also of pairs and of tokens: float32 [width] or [tokens, width] each.

        `types` say of which text of a pair a token is; None: all are of the first.
        """
        module, found = self._answering("text"), dict[int, Float32]()
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        for start in range(0, len(ids), BATCH):
            chosen = order[start : start + BATCH]
            kinds = [types[index] for index in chosen] if types else None
            inputs = self._text_inputs([ids[index] for index in chosen], kinds)
            for index, row in zip(chosen, self._run(module, inputs)[0], strict=True):
                found[index] = row[: len(ids[index])] if row.ndim > 1 else row
        return [found[index] for index in range(len(ids))]

    def classify(self, ids: Sequence[Sequence[int]]) -> Float32:
        """Logits float32 [texts, labels] of token ids, special ones included."""
        return self.embed(ids)

    def look(self, pixels: Float32) -> Float32:
        """The picture task's answers float32 [n, width] of prepared pictures [n, 3, h, w]."""
        import torch

        module = self._answering("picture")
        parts = torch.split(torch.from_numpy(pixels), BATCH)
        return np.concatenate([self._run(module, {"pixel_values": part})[0] for part in parts])

    @property
    def sound_shape(self) -> tuple[int, int]:
        """Mel filters and frames of a prepared window of sound."""
        if self.model.audio is None:
            raise BadInputError(self.model.name, "a model of sound without its preparation")
        return self.model.audio.n_mels, self.model.audio.frames

    def logits(self, ids: Sequence[int]) -> Float32:
        """Next-token logits float32 [tokens, vocabulary] of one window of a decoder."""
        return np.concatenate(list(self.logit_chunks(ids, len(ids))))

    def logit_chunks(
        self, ids: Sequence[int], rows: int = 128, first: int = 0
    ) -> Iterator[Float32]:
        """The same in pieces float32 [<= rows, vocabulary]: the body runs once, the head by pieces.

        From row `first` on; the rows before it cost no product with the head.

        Works through `logits_to_keep`, so a model's own scaling or capping of logits is kept.
        """
        import torch

        inputs = {"input_ids": torch.tensor([list(ids)]), "use_cache": False}
        with _body_runs_once(self.body) as in_pieces:
            for start in range(first, len(ids), rows):
                keep = torch.arange(start, min(start + rows, len(ids)))
                extra = {"logits_to_keep": keep} if in_pieces else {}
                with torch.inference_mode():
                    found = self.body(**inputs, **extra).logits[0]
                yield (found if in_pieces else found[start : start + rows]).numpy()

    def continue_greedily(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, stops: Collection[int] = ()
    ) -> list[list[int]]:
        """The likeliest tokens one after the other, up to a stop token, which is given too.

        Prompts run side by side, so that weights are read once a token and not once a prompt's.
        """
        import torch
        from transformers import GenerationConfig

        longest = max(map(len, prompts), default=0)
        fed = torch.zeros(len(prompts), longest, dtype=torch.int64)
        mask = torch.zeros_like(fed)
        for row, ids in enumerate(prompts):  # padded before, so that all go on at one column
            fed[row, longest - len(ids) :] = torch.tensor(list(ids))
            mask[row, longest - len(ids) :] = 1
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=new_tokens, do_sample=False, eos_token_id=sorted(stops) or None,
            pad_token_id=0,
        )  # fmt: skip
        with torch.inference_mode():
            found = self.body.generate(  # type: ignore[operator]
                fed, attention_mask=mask, generation_config=config
            )
        return [_until(row, stops) for row in found[:, longest:].tolist()]

    def answer_logits(self, source: Sequence[int] | Float32, ids: Sequence[int]) -> Float32:
        """Logits float32 [tokens, vocabulary] after each of an answer's ids, its start token first.

        An encoder-decoder's, of a source with its special tokens, or of sound [mels, frames].
        """
        import torch

        with torch.inference_mode():
            found = self.body(
                **self._source(source), use_cache=False, decoder_input_ids=torch.tensor([list(ids)])
            )
        logits: Float32 = found.logits[0].numpy()
        return logits

    def transcribe(self, sound: Float32) -> tuple[list[int], str]:
        """The source's own greedy transcript of a window [mels, frames]: token ids and text.

        Without timestamps: transformers would cut a window where an untrained model says them.
        """
        import torch

        body, (config, tokens) = self.body, self._generation
        several = {"task": "transcribe"} if getattr(config, "is_multilingual", False) else {}
        body.generation_config = config
        with torch.inference_mode():
            found = body.generate(  # type: ignore[operator]
                torch.from_numpy(sound)[None], do_sample=False, **several
            )
        ids = [int(token) for token in found[0] if int(token) != config.eos_token_id]
        return ids, str(tokens.decode(ids, skip_special_tokens=True)).strip()

    @cached_property
    def _generation(self) -> tuple[Any, Any]:
        """A model of speech's generation_config.json, and its tokenizer."""
        from transformers import AutoTokenizer, GenerationConfig

        config = GenerationConfig.from_pretrained(self.model.folder)
        if (silent := getattr(config, "no_timestamps_token_id", None)) is not None:
            times = range(silent + 1, int(self.model.config["vocab_size"]))
            config.suppress_tokens = [*(config.suppress_tokens or ()), *times]
        folder = self.model.folder
        return config, AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @staticmethod
    def _source(source: Sequence[int] | Float32) -> dict[str, Tensor]:
        import torch

        if isinstance(source, np.ndarray):
            return {"input_features": torch.from_numpy(source)[None]}
        return {"input_ids": torch.tensor([list(source)])}

    def run(self, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Outputs by name of one call with arrays by input name; unnamed ones are output_0, ..."""
        import torch

        module = self.torch_module()
        values = self._run(module, {name: torch.from_numpy(a) for name, a in arrays.items()})
        return dict(zip(self._output_names(len(values)), values, strict=True))

    def _output_names(self, count: int) -> list[str]:
        fixed = TASKS[self.model.task].output
        return [fixed] if fixed else [f"output_{index}" for index in range(count)]

    def _text_inputs(
        self, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> dict[str, Tensor]:
        """int64 [texts, longest]; what is padded has the config's padding id and mask 0."""
        import torch

        shape = len(rows), max(map(len, rows))
        tokens = torch.full(shape, int(self.model.config.get("pad_token_id") or 0))
        mask, kinds = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(list(row))
            mask[index, : len(row)] = 1
            if types is not None:
                kinds[index, : len(row)] = torch.tensor(list(types[index]))
        given = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": kinds}
        return {name: given[name] for name in self.input_names}

    @staticmethod
    def _run(module: nn.Module, inputs: Mapping[str, Tensor]) -> list[NDArray[Any]]:
        import torch

        with torch.inference_mode():
            return [value.numpy() for value in flat_outputs(module(**inputs))]


def _until(ids: Sequence[int], stops: Collection[int]) -> list[int]:
    """The ids up to the first stop token, that included."""
    end = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
    return list(ids[:end])


@contextmanager
def _body_runs_once(causal: nn.Module) -> Iterator[bool]:
    """Inside, the decoder's body runs at the first call and later calls reuse its result.

    Yields False, and caches nothing, where the model cannot cut logits into pieces.
    """
    body: Any = getattr(causal, "base_model", causal)
    if body is causal or "logits_to_keep" not in inspect.signature(causal.forward).parameters:
        yield False
        return
    original = body.forward
    kept: list[Any] = []

    def forward(*args: Any, **named: Any) -> Any:
        if not kept:
            kept.append(original(*args, **named))
        return kept[0]

    body.forward = forward
    try:
        yield True
    finally:
        del body.forward
