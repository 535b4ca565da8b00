"""Train a small Whisper on speech of espeak-ng's, on a CPU, and save it as a Hugging Face folder.

    nice python benchmarks/speech/train.py OUT [--minutes 20] [--threads 2]

The true classes, front end and tokens; windows of 4 s. Half of what it hears has timestamps, with
several sentences in a window of which the last may be cut off. A CTC head beside the decoder speeds
up learning (Watanabe et al. 2017, "Hybrid CTC/Attention Architecture") and is then left out.
"""
from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from commands import RATE, Utterance, disturbed, sentence, speak_all, utterances
from machine import describe
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

SECONDS, STEP = 4, 0.02  # of a window, and of a timestamp
NAMED = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>",
         "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")  # fmt: skip
MERGED = 400  # entries of the vocabulary before the named ones
WIDTH, LAYERS, HEADS = 128, 2, 2
BATCH, RATE_OF_LEARNING, SEED = 32, 1.5e-3, 11
PAUSE = (0.1, 1.0)  # seconds before a sentence
Sound = tuple[str, NDArray[np.float32]]


def tokenizer() -> Tokenizer:
    """Byte-level BPE of such sentences with Whisper's tokens, ids in Whisper's order."""
    import random

    rng = random.Random(SEED)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MERGED, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator((f" {sentence(rng)}" for _ in range(4000)), trainer)
    made.add_special_tokens(list(NAMED))
    made.add_tokens([f"<|{at * STEP:.2f}|>" for at in range(round(SECONDS / STEP) + 1)])
    start, end = (made.token_to_id(name) for name in ("<|startoftranscript|>", "<|endoftext|>"))
    silent = made.token_to_id("<|notimestamps|>")
    made.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|> <|notimestamps|> $A <|endoftext|>",
        special_tokens=[
            ("<|startoftranscript|>", start), ("<|notimestamps|>", silent), ("<|endoftext|>", end),
        ],
    )  # fmt: skip
    return made


def model(tokens: Tokenizer) -> WhisperForConditionalGeneration:
    """Whisper's architecture at a small size, weights drawn by seed."""
    ids = {name: tokens.token_to_id(name) for name in NAMED}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    torch.manual_seed(SEED)
    config = WhisperConfig(
        vocab_size=tokens.get_vocab_size(), num_mel_bins=80, d_model=WIDTH,
        encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=4 * WIDTH, decoder_ffn_dim=4 * WIDTH,
        max_source_positions=SECONDS * 50, max_target_positions=64, dropout=0.0,
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    made = WhisperForConditionalGeneration(config)
    made.generation_config = GenerationConfig(
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
        is_multilingual=True, lang_to_id={"<|en|>": ids["<|en|>"]}, max_length=64,
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"], return_timestamps=False,
        prev_sot_token_id=ids["<|startofprev|>"], max_initial_timestamp_index=50,
        begin_suppress_tokens=[tokens.token_to_id("Ġ"), end],
        suppress_tokens=[ids[name] for name in NAMED[1:8]],
    )  # fmt: skip
    return made


class Windows:
    """Windows of sound and the tokens that are right for them."""

    def __init__(self, tokens: Tokenizer, sounds: Sequence[Sound], seed: int) -> None:
        self.tokens, self.sounds = tokens, sounds
        self.rng = np.random.default_rng(seed)
        names = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>")
        self.start = [tokens.token_to_id(name) for name in names]
        self.silent = tokens.token_to_id("<|notimestamps|>")
        self.end = tokens.token_to_id("<|endoftext|>")

    def draw(self) -> tuple[NDArray[np.float32], list[int], str]:
        """Samples [64000], tokens from the start to the end, and the text that is whole."""
        timed = self.rng.random() < 0.5
        window, at = np.zeros(SECONDS * RATE, np.float32), 0
        ids = self.start + ([] if timed else [self.silent])
        texts = []
        while True:
            at += int(RATE * self.rng.uniform(*PAUSE)) if at or self.rng.random() < 0.8 else 0
            text, sound = self.sounds[self.rng.integers(len(self.sounds))]
            first = not texts and not timed
            if first:
                at = min(at, window.size - sound.size)
            whole = at + sound.size <= window.size
            if not whole and (not timed or at >= window.size - RATE // 20):
                break
            part = sound[: window.size - at]
            window[at : at + part.size] = part
            ids += self._said(text, at, at + part.size, timed, whole)
            texts.append(text)
            at += part.size
            if not whole:
                texts.pop()
                break
            if self.rng.random() < 0.4:
                break
        return disturbed(window, self.rng), [*ids, self.end], " ".join(texts)

    def _said(self, text: str, begin: int, end: int, timed: bool, whole: bool) -> list[int]:
        words = self.tokens.encode(f" {text}", add_special_tokens=False).ids
        if not timed:
            return words
        before, after = (self.silent + 1 + round(at / RATE / STEP) for at in (begin, end))
        return [before, *words, after] if whole else [before]


def batches(windows: Windows, extractor: WhisperFeatureExtractor) -> Iterator[tuple[Tensor, ...]]:
    """Features [n, 80, frames], tokens [n, longest], letters for CTC and their counts, for ever."""
    while True:
        drawn = [windows.draw() for _ in range(BATCH)]
        features = extractor(
            [one[0] for one in drawn], sampling_rate=RATE, return_tensors="pt"
        ).input_features
        ids = nn.utils.rnn.pad_sequence(
            [torch.tensor(one[1]) for one in drawn], batch_first=True, padding_value=-100
        )
        letters = [[1 + ord(c) - 96 if c != " " else 1 for c in one[2]] for one in drawn]
        texts = nn.utils.rnn.pad_sequence([torch.tensor(one) for one in letters], batch_first=True)
        yield features, ids, texts, torch.tensor([len(one) for one in letters])


def train(made: WhisperForConditionalGeneration, source: Iterator[tuple[Tensor, ...]],
          options: argparse.Namespace) -> int:  # fmt: skip
    """AdamW with a cosine decay over the steps or minutes given; the number of steps."""
    head = nn.Linear(WIDTH, 28)
    parameters = [*made.parameters(), *head.parameters()]
    trained = [one for one in parameters if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE_OF_LEARNING, weight_decay=0.01, betas=(0.9, 0.98))
    started, step = time.perf_counter(), 0
    made.train()
    while True:
        minutes = (time.perf_counter() - started) / 60
        passed = step / options.steps if options.steps else minutes / options.minutes
        if passed >= 1:
            return step
        step += 1
        rate = RATE_OF_LEARNING * min(1.0, step / 200) * 0.5 * (1 + math.cos(math.pi * passed))
        for group in optimizer.param_groups:
            group["lr"] = rate
        features, ids, texts, sizes = next(source)
        weight = 0.0 if options.resume else max(0.0, 0.5 - passed)  # of a head that is not kept
        losses = _losses(made, head, features, ids, (texts, sizes), weight)
        sum(losses).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"step {step}, {minutes:.1f} min, decoder {losses[0].item():.3f}, "
                  f"CTC {losses[1].item():.3f}", flush=True)  # fmt: skip


def _losses(
    made: WhisperForConditionalGeneration, head: nn.Linear, features: Tensor, ids: Tensor,
    spelled: tuple[Tensor, Tensor], weight: float,
) -> list[Tensor]:  # fmt: skip
    found = made.model.encoder(features)
    given = ids[:, :-1].clamp(min=0)
    logits = made(encoder_outputs=found, decoder_input_ids=given, use_cache=False).logits
    known = ids[:, 1:].clone()
    known[:, :2] = -100  # language and task are given
    decoder = functional.cross_entropy(logits.transpose(1, 2), known)
    texts, sizes = spelled
    heard = head(found.last_hidden_state).log_softmax(-1).transpose(0, 1)
    frames = torch.full((len(texts),), heard.shape[0])
    ctc = functional.ctc_loss(heard, texts, frames, sizes, zero_infinity=True)
    return [decoder, ctc * weight]


def save(made: WhisperForConditionalGeneration, tokens: Tokenizer,
         extractor: WhisperFeatureExtractor, out: Path) -> None:  # fmt: skip
    """The folder that `edgecompile build` takes."""
    made.eval().save_pretrained(out)
    extractor.save_pretrained(out)
    tokens.save(str(out / "tokenizer.json"))
    settings = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 64,
                "bos_token": NAMED[0], "eos_token": NAMED[0], "pad_token": NAMED[0],
                "unk_token": NAMED[0]}  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def main() -> None:
    """Speak, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, help="an end by steps, in place of --minutes")
    parser.add_argument("--utterances", type=int, default=6000)
    parser.add_argument("--resume", type=Path, help="go on from a folder saved before")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe(options.threads), flush=True)
    found: list[Utterance] = utterances(options.utterances, SEED, held_out=False)
    sounds = speak_all(found, SECONDS - 0.1)
    print(f"{len(sounds)} of {len(found)} utterances fit, "
          f"{sum(len(s) for _, s in sounds) / RATE / 60:.0f} minutes", flush=True)  # fmt: skip
    tokens = tokenizer()
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS)
    made = model(tokens)
    if options.resume:
        made.load_state_dict(
            WhisperForConditionalGeneration.from_pretrained(options.resume).state_dict()
        )
    size = sum(one.numel() for one in made.parameters())
    print(f"{size:,} parameters, {tokens.get_vocab_size()} tokens", flush=True)
    seed = SEED + bool(options.resume)
    steps = train(made, batches(Windows(tokens, sounds, seed), extractor), options)
    save(made, tokens, extractor, options.out)
    print(f"{steps} steps of {BATCH}; saved {options.out}")


if __name__ == "__main__":
    main()
