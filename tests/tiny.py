"""Small seeded models of true architectures, saved as a user would save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgecompile.passes import Work
    from edgecompile.text import Corpus

TEXT = (
    "the quick brown fox jumps over the lazy dog while numbers such as 1234567890 and symbols "
    "like , . ; : ! ? pass by and a decoder learns to write again and again what it has read"
)
CHAT = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"


def llama(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A Llama of two layers with grouped-query attention, a tied head and a byte-level BPE."""
    import torch
    import transformers

    torch.manual_seed(seed)
    size = byte_bpe(folder)
    settings: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": size,
        "max_position_embeddings": 256, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
        "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.1,
    }  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings | changes))
    model.save_pretrained(folder)
    card(folder)
    return folder


def bert(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A BERT of two layers in the sentence-transformers layout, with a WordPiece vocabulary."""
    import torch
    import transformers

    torch.manual_seed(seed)
    size = word_piece(folder)
    settings: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": size, "max_position_embeddings": 128,
        "initializer_range": 0.1,
    }  # fmt: skip
    model = transformers.BertModel(transformers.BertConfig(**settings | changes))
    model.save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": p, "type": f"sentence_transformers.models.{k}"} for p, k in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    card(folder)
    return folder


def t5(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A T5 of two and three layers with a tied head, and a Unigram as SentencePiece's."""
    import torch
    import transformers

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": unigram(folder), "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2,
        "num_decoder_layers": 3, "num_heads": 4, "decoder_start_token_id": 0, "n_positions": 256,
        "relative_attention_num_buckets": 12, "relative_attention_max_distance": 20,
    }  # fmt: skip
    config = transformers.T5Config(**settings | changes)
    model = transformers.T5ForConditionalGeneration(config)
    for name, weight in model.named_parameters():
        if "norm" in name:  # made as ones, so that one norm is like another
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    torch.nn.init.normal_(model.shared.weight, std=0.1)  # or a tied head repeats what it is fed
    model.save_pretrained(folder)
    card(folder)
    return folder


SPEECH_TOKENS = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip
SOUND_SECONDS = 2  # of a tiny Whisper's window


def whisper(folder: Path, seed: int = 0, english: bool = False, **changes: Any) -> Path:
    """A Whisper of two layers each for windows of two seconds, with all files of a real one."""
    import torch
    import transformers

    torch.manual_seed(seed)
    size, ids = speech_bpe(folder)
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    settings: dict[str, Any] = {
        "vocab_size": size, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 96, "num_mel_bins": 80, "max_source_positions": 50 * SOUND_SECONDS,
        "max_target_positions": 48, "pad_token_id": end, "bos_token_id": end, "eos_token_id": end,
        "decoder_start_token_id": start, "init_std": 0.2,
    }  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(**settings | changes)
    )
    # Small, or a tied head repeats what it is fed, and the first norms' epsilon has no say.
    for part in (model.model.encoder, model.model.decoder):
        torch.nn.init.normal_(part.embed_positions.weight, std=0.005)
    torch.nn.init.normal_(model.model.decoder.embed_tokens.weight, std=0.03)
    torch.nn.init.normal_(model.model.encoder.conv2.weight, std=0.001)
    for name, weight in model.named_parameters():
        if "norm" in name or (name.endswith("bias") and "conv" not in name):
            torch.nn.init.uniform_(weight, -0.5 if "bias" in name else 0.5, 0.5 + ("norm" in name))
    languages = {"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]}
    tasks = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
    several = {} if english else {"lang_to_id": languages, "task_to_id": tasks}
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
        is_multilingual=not english, no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"], max_initial_timestamp_index=50, max_length=48,
        begin_suppress_tokens=[5, end], suppress_tokens=[*range(1, 5), *range(start, end + 9)],
        return_timestamps=False, **several,
    )  # fmt: skip
    model.save_pretrained(folder)
    front = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=SOUND_SECONDS)
    front.save_pretrained(folder)
    card(folder)
    return folder


def speech_bpe(folder: Path) -> tuple[int, dict[str, int]]:
    """tokenizer.json with Whisper's tokens in Whisper's order; the vocabulary's size, their ids."""
    from tokenizers import AddedToken, Tokenizer, processors

    byte_bpe(folder)
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_special_tokens(list(SPEECH_TOKENS))
    times = (f"<|{at * 0.02:.2f}|>" for at in range(50 * SOUND_SECONDS + 1))
    made.add_tokens([AddedToken(one, normalized=False) for one in times])
    ids = {name: made.token_to_id(name) for name in SPEECH_TOKENS}
    around = ("<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>")
    made.post_processor = processors.TemplateProcessing(
        single=f"{around[0]} {around[1]} $A {around[2]}",
        special_tokens=[(name, ids[name]) for name in around],
    )
    made.save(str(folder / "tokenizer.json"))
    named = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), around[2])
    settings = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 48, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(made.get_vocab_size()), ids


def unigram(folder: Path) -> int:
    """tokenizer.json of a Unigram that ends texts with </s>; returns the vocabulary's size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>",
        "unk_token": "<unk>", "model_max_length": 256,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(tokenizer.get_vocab_size())


def clip(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A CLIP of two and three layers, with its kind of tokenizer and processor of pictures.

    `changes` are of the text's part; `vision` among them are of the other's.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    size = clip_bpe(folder)
    picture_settings(folder, "CLIPImageProcessor", CLIP_SIDE)
    both = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    vision = {"num_hidden_layers": 3, "image_size": CLIP_SIDE, "patch_size": 8}
    text: dict[str, Any] = {
        "num_hidden_layers": 2, "vocab_size": size, "max_position_embeddings": 77,
        "bos_token_id": size - 2, "eos_token_id": size - 1,
    }  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=both | text | {k: v for k, v in changes.items() if k != "vision"},
        vision_config=both | vision | changes.get("vision", {}), projection_dim=48,
    )  # fmt: skip
    model = transformers.CLIPModel(config)
    for name, weight in model.named_parameters():
        if "norm" in name:  # made as ones, so that one norm is like another
            torch.nn.init.uniform_(weight, 0.5, 1.5)
        elif name != "logit_scale":  # made as zeros, or so small that all vectors are alike
            torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(folder)
    card(folder)
    return folder


CLIP_SIDE = 32  # pixels


def picture_settings(folder: Path, kind: str, side: int) -> None:
    """preprocessor_config.json of a processor that crops to squares of that side."""
    settings = {
        "image_processor_type": kind, "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def clip_bpe(folder: Path) -> int:
    """tokenizer.json of CLIP's lower-casing BPE, whose words end with </w>; returns its size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rules = CLIPTokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer, trained.normalizer = rules.pre_tokenizer, rules.normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator([TEXT] * 2, trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    pieces = [*alphabet, *(c + "</w>" for c in alphabet), *map("".join, merges), *ends]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    whole = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=ends[1], end_of_word_suffix="</w>")
    )
    whole.normalizer, whole.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    whole.decoder = rules.decoder
    whole.add_special_tokens(ends)
    first, last = ((token, vocabulary[token]) for token in ends)
    whole.post_processor = processors.RobertaProcessing(
        last, first, trim_offsets=False, add_prefix_space=False
    )
    whole.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "CLIPTokenizer", "bos_token": ends[0], "eos_token": ends[1],
        "pad_token": ends[1], "unk_token": ends[1], "model_max_length": 77,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocabulary)


def card(folder: Path) -> None:
    """A model card with a licence."""
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny model\n")


def byte_bpe(folder: Path) -> int:
    """tokenizer.json of a byte-level BPE with two special tokens; returns the vocabulary's size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "model_max_length": 256, "chat_template": CHAT,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(tokenizer.get_vocab_size())


def word_piece(folder: Path) -> int:
    """tokenizer.json of an uncased WordPiece with [CLS] and [SEP]; returns its size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 128}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(tokenizer.get_vocab_size())


def work(folder: Path, corpus: Corpus | None = None) -> Work:
    """What a build gives to a pass: an empty folder, text (else the default), sizes in bytes."""
    from edgecompile.passes import Work
    from edgecompile.text import default_corpus

    folder.mkdir(parents=True, exist_ok=True)

    def stage(name: str, _options: Any, make: Callable[[Path], None]) -> Path:
        if not (folder / name).exists():
            (folder / name).mkdir()
            make(folder / name)
        return folder / name

    return Work(
        lambda *_: None, folder, lambda: corpus or default_corpus(),
        lambda schemes: sum(scheme.bits for scheme in schemes.values()), stage,
    )  # fmt: skip


def corpus(documents: int = 40) -> Corpus:
    """The words of TEXT in other orders: what these tokenizers were made for, in no time."""
    import random

    from edgecompile.text import Corpus
    from edgecompile.text.parts import Document

    order, words = random.Random(0), TEXT.split()
    texts = [Document(" ".join(order.choices(words, k=60))) for _ in range(3 * documents)]
    parts = (tuple(texts[start::3]) for start in range(3))
    return Corpus("tiny", *parts)


def not_passed(report: Any) -> list[str]:
    """What keeps a check from passing: metric, verdict, value, interval and reason."""
    return [
        f"{row.metric} {row.verdict}: {row.value} in [{row.low}, {row.high}] of {row.samples}, "
        f"limit {row.limit}. {row.detail}"
        for row in report.rows if row.verdict in ("fail", "unproven")
    ]
