"""Small real bundles, made in well under a second: real graphs and files, random weights."""
from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUNTIME = Path(__file__).parents[2] / "edgecompile" / "runtime"
CHUNK = 4 << 20
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH, HEADS, KV_HEADS, HEAD, LAYERS, CONTEXT = 64, 4, 2, 16, 2, 2048


def chunked(data: bytes) -> dict[str, Any]:
    """The digests of a file as a manifest lists them."""
    parts = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    chunks = [hashlib.sha256(part).hexdigest() for part in parts]
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "chunks": chunks}


def seal(bundle: Path, manifest: dict[str, Any], *, runtime: bool = True) -> Path:
    """Copy the runtime in and write the manifest of what lies in the folder."""
    if runtime and not (bundle / "runtime").exists():
        inner = bundle / "runtime" / "edgecompile_runtime"
        shutil.copytree(RUNTIME, inner, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(RUNTIME / "bundle_main.py", bundle / "runtime" / "__main__.py")
    paths = sorted(path for path in bundle.rglob("*") if path.is_file())
    files = [
        {"path": path.relative_to(bundle).as_posix(), **chunked(path.read_bytes())}
        for path in paths
        if path.name != "manifest.json" and "__pycache__" not in path.parts
    ]
    text = json.dumps({**manifest, "files": files}, sort_keys=True, indent=2) + "\n"
    (bundle / "manifest.json").write_text(text)
    return bundle


def manifest(task: str, engine: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """The sections that the runtime reads, with the tokenizer that `write_tokenizer` writes."""
    tokenizer = {
        "file": "tokenizer/tokenizer.json",
        "template": "tokenizer/chat_template.jinja",
        "max_length": 64,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
    }
    return {
        "format": 1,
        "model": {"name": "tiny", "task": task, "labels": None},
        "engine": {"requires": f"{engine['name']}>=1", "tested": "1", **engine},
        "tokenizer": tokenizer,
        "pooling": None,
        "generation": None,
        **sections,
    }


def write_tokenizer(bundle: Path) -> int:
    """A byte-level BPE tokenizer and its template; the number of tokens. Pads to 128 on its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", "<|im_end|>", "[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 9, trainer)
    tokenizer.enable_padding(length=128, pad_id=2, pad_token="[PAD]")
    tokenizer.enable_truncation(128)
    folder = bundle / "tokenizer"
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return int(tokenizer.get_vocab_size())


def _random(seed: int, *shape: int) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])
    return values.astype(np.float32)


def _save(graph_parts: dict[str, Any], file: Path) -> None:
    from onnx import helper, save

    graph = helper.make_graph(**graph_parts)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    file.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(file))


def write_onnx_decoder(file: Path, vocabulary: int, *, last_tokens: bool) -> dict[str, Any]:
    """A two-layer decoder of GroupQueryAttention nodes; its engine.options.

    With `last_tokens` it has learned positions too, so that both optional inputs are there.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights = {
        "embedding": _random(1, vocabulary, WIDTH) * 8,
        "one": np.array([1], np.int64), "head": _random(2, WIDTH, vocabulary) * 4,
    }
    angles = np.arange(CONTEXT)[:, None] / 10000 ** (np.arange(HEAD // 2) / (HEAD // 2))
    weights |= {"cos": np.cos(angles, dtype=np.float32), "sin": np.sin(angles, dtype=np.float32)}
    node = helper.make_node
    nodes = [
        node("ReduceSum", ["attention_mask", "one"], ["lengths"], keepdims=0),
        node("Sub", ["lengths", "one"], ["last"]),
        node("Cast", ["last"], ["seqlens"], to=TensorProto.INT32),
        node("Shape", ["attention_mask"], ["mask_shape"]),
        node("Gather", ["mask_shape", "one"], ["total64"]),
        node("Cast", ["total64"], ["total"], to=TensorProto.INT32),
        node("Gather", ["embedding", "input_ids"], ["words" if last_tokens else "x0"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", length])
        for name, length in (("input_ids", "length"), ("attention_mask", "total_length"))
    ]
    outputs = []
    for layer in range(LAYERS):
        widths = {"q": WIDTH, "k": KV_HEADS * HEAD, "v": KV_HEADS * HEAD, "o": WIDTH}
        for at, (part, width) in enumerate(widths.items()):
            weights[f"{part}{layer}"] = _random(10 * layer + at + 3, WIDTH, width)
        nodes += [node("MatMul", [f"x{layer}", f"{p}{layer}"], [f"{p}_{layer}"]) for p in "qkv"]
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        nodes += [
            node(
                "GroupQueryAttention",
                [*(f"{p}_{layer}" for p in "qkv"), *past, "seqlens", "total", "cos", "sin"],
                [f"a{layer}", *present],
                domain="com.microsoft", num_heads=HEADS, kv_num_heads=KV_HEADS, do_rotary=1,
            ),
            node("MatMul", [f"a{layer}", f"o{layer}"], [f"y{layer}"]),
            node("Add", [f"x{layer}", f"y{layer}"], [f"x{layer + 1}"]),
        ]
        shape = ["batch", KV_HEADS, "past", HEAD]
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in past]
        shape = ["batch", KV_HEADS, "total_length", HEAD]
        outputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in present
        ]
    hidden = f"x{LAYERS}"
    if last_tokens:
        weights["places"] = _random(9, CONTEXT, WIDTH) * 50
        nodes[:0] = [node("Gather", ["places", "position_ids"], ["places_x"])]
        nodes.insert(8, node("Add", ["words", "places_x"], ["x0"]))
        inputs.append(
            helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "length"])
        )
        weights["end"] = np.array([2**62], np.int64)
        nodes += [
            node("Neg", ["last_tokens"], ["start"]),
            node("Slice", [hidden, "start", "end", "one"], ["kept"]),
        ]
        hidden = "kept"
        inputs.append(helper.make_tensor_value_info("last_tokens", TensorProto.INT64, [1]))
    nodes.append(node("MatMul", [hidden, "head"], ["logits"]))
    logits = helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, ["batch", "rows", vocabulary]
    )
    _save(
        {
            "nodes": nodes, "name": "tiny", "inputs": inputs, "outputs": [logits, *outputs],
            "initializer": [numpy_helper.from_array(v, k) for k, v in weights.items()],
        },
        file,
    )
    return {
        "layers": LAYERS, "kv_heads": KV_HEADS, "head_size": HEAD, "kv_dtype": "float32",
        "past": "past_key_values.{layer}.{part}", "present": "present.{layer}.{part}",
        "input_ids": "input_ids", "attention_mask": "attention_mask",
        **({"last_tokens": "last_tokens", "position_ids": "position_ids"} if last_tokens else {}),
    }


def write_onnx_encoder(file: Path, vocabulary: int, width: int) -> None:
    """Mean of the unmasked tokens' embeddings, times a matrix: [batch, width]."""
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node
    weights = {
        "embedding": _random(1, vocabulary, WIDTH), "axes": np.array([2], np.int64),
        "one": np.array([1], np.int64), "head": _random(2, WIDTH, width) * 8,
    }
    nodes = [
        node("Gather", ["embedding", "input_ids"], ["tokens"]),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "axes"], ["mask3"]),
        node("Mul", ["tokens", "mask3"], ["masked"]),
        node("ReduceSum", ["masked", "one"], ["sums"], keepdims=0),
        node("ReduceSum", ["mask", "one"], ["counts"], keepdims=1),
        node("Div", ["sums", "counts"], ["mean"]),
        node("MatMul", ["mean", "head"], ["result"]),
    ]
    ids = ("input_ids", "attention_mask")
    _save(
        {
            "nodes": nodes, "name": "tiny",
            "inputs": [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
                for name in ids
            ],
            "outputs": [
                helper.make_tensor_value_info("result", TensorProto.FLOAT, ["batch", width])
            ],
            "initializer": [numpy_helper.from_array(v, k) for k, v in weights.items()],
        },
        file,
    )


def write_gguf(file: Path, architecture: str, vocabulary: int) -> None:
    """A one-layer llama or bert without a vocabulary of its own."""
    import gguf

    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_block_count(1)
    writer.add_context_length(CONTEXT if architecture == "llama" else 64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("none")
    shapes = _llama(writer) if architecture == "llama" else _bert(writer)
    shapes["token_embd.weight"] = (vocabulary, WIDTH)
    for seed, (name, shape) in enumerate(sorted(shapes.items())):
        values = _random(seed, *shape[::-1]).T.copy()
        if name.endswith("norm.weight"):
            values = np.ones(shape, np.float32)
        writer.add_tensor(name, values * (8 if name == "token_embd.weight" else 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _llama(writer: Any) -> dict[str, tuple[int, ...]]:
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    kv = KV_HEADS * HEAD
    return {
        "output_norm.weight": (WIDTH,), "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,), "blk.0.attn_q.weight": (WIDTH, WIDTH),
        "blk.0.attn_k.weight": (kv, WIDTH), "blk.0.attn_v.weight": (kv, WIDTH),
        "blk.0.attn_output.weight": (WIDTH, WIDTH), "blk.0.ffn_up.weight": (2 * WIDTH, WIDTH),
        "blk.0.ffn_gate.weight": (2 * WIDTH, WIDTH), "blk.0.ffn_down.weight": (WIDTH, 2 * WIDTH),
    }


def _bert(writer: Any) -> dict[str, tuple[int, ...]]:
    import gguf

    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(2)
    shapes: dict[str, tuple[int, ...]] = {
        "position_embd.weight": (64, WIDTH), "token_types.weight": (2, WIDTH),
        "blk.0.ffn_up.weight": (2 * WIDTH, WIDTH), "blk.0.ffn_up.bias": (2 * WIDTH,),
        "blk.0.ffn_down.weight": (WIDTH, 2 * WIDTH), "blk.0.ffn_down.bias": (WIDTH,),
    }
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    for part in ("q", "k", "v", "output"):
        shapes |= {
            f"blk.0.attn_{part}.weight": (WIDTH, WIDTH), f"blk.0.attn_{part}.bias": (WIDTH,)
        }
    return shapes


def generation() -> dict[str, Any]:
    """The generation section of the tiny decoders."""
    return {"context_length": CONTEXT, "stop_token_ids": [1], "defaults": {}}


def make_bundle(folder: Path, kind: str) -> Path:
    """A sealed bundle of one `kind`: see BUNDLES."""
    vocabulary = write_tokenizer(folder)
    file = "model/model.gguf" if kind.startswith("llama") else "model/model.onnx"
    engine = {"name": "llama_cpp" if kind.startswith("llama") else "onnxruntime", "file": file}
    path = folder / file
    if kind in ("onnx-decoder", "onnx-decoder-last"):
        options = write_onnx_decoder(path, vocabulary, last_tokens=kind.endswith("last"))
        engine["options"] = options  # type: ignore[assignment]
        return seal(folder, manifest("text-generation", engine, generation=generation()))
    if kind == "llama-decoder":
        write_gguf(path, "llama", vocabulary)
        return seal(folder, manifest("text-generation", engine, generation=generation()))
    if kind == "classifier":
        write_onnx_encoder(path, vocabulary, 3)
        model = {"name": "tiny", "task": "classification", "labels": ["no", "maybe", "yes"]}
        return seal(folder, manifest("classification", engine, model=model))
    if kind == "llama-encoder":
        write_gguf(path, "bert", vocabulary)
    else:
        write_onnx_encoder(path, vocabulary, WIDTH)
    pooling = {"mode": "mean", "normalize": kind == "llama-encoder", "dimension": WIDTH}
    return seal(folder, manifest("embedding", engine, pooling=pooling))


DECODERS = ("onnx-decoder", "onnx-decoder-last", "llama-decoder")
ENCODERS = ("onnx-encoder", "llama-encoder")
