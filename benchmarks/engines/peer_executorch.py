"""ExecuTorch's stock exporters: export_llm for a decoder, PT2E with the XNNPACK partitioner.

python peer_executorch.py decoder MODEL OUT int4|int8
python peer_executorch.py encoder MODEL OUT int8|float32

A decoder's weights are first put under Meta's names and in Meta's order of rotary pairs, as the
package's own smollm2/convert_weights.py does through torchtune.
"""
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

CONTEXT = 512  # tokens: the cache is allocated at load, so a longer one would cost memory
TOKENS = 128  # longest text of an encoder
NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
QUANTIZATION = {
    "int4": (
        "quantization.qmode=8da4w", "quantization.group_size=32",
        "quantization.embedding_quantize='8,0'",
    ),
    "int8": (
        "quantization.pt2e_quantize=xnnpack_dynamic", "quantization.embedding_quantize='8,0'",
    ),
}  # fmt: skip


def decoder(options: argparse.Namespace) -> None:
    """`export_llm` with a KV cache, ExecuTorch's attention kernel and XNNPACK's extended ops."""
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint, params = options.out / "consolidated.pth", options.out / "params.json"
    _write_meta(options.model, checkpoint, params)
    command = [
        sys.executable, "-m", "executorch.extension.llm.export.export_llm",
        "base.model_class=smollm2", f"base.checkpoint={checkpoint}", f"base.params={params}",
        'base.metadata="{\\"get_bos_id\\":1, \\"get_eos_ids\\":[2]}"',
        "model.use_kv_cache=True", "model.use_sdpa_with_kv_cache=True",
        "backend.xnnpack.enabled=True", "backend.xnnpack.extended_ops=True",
        f"export.max_seq_length={CONTEXT}", f"export.max_context_length={CONTEXT}",
        f"export.output_name={options.out / 'model.pte'}",
        f"hydra.run.dir={options.out}", *QUANTIZATION[options.precision],
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=sys.stderr)
    checkpoint.unlink()


def encoder(options: argparse.Namespace) -> None:
    """Text vectors [1, dim] of ids and mask int64 [1, tokens], tokens at most TOKENS."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    model, example = _pooled(options.model)
    tokens = torch.export.Dim("tokens", min=2, max=TOKENS)
    shapes = {"input_ids": {1: tokens}, "attention_mask": {1: tokens}}
    program = torch.export.export(model, example, dynamic_shapes=shapes, strict=False)
    if options.precision == "int8":
        quantized = _quantized(program.module(), example)
        program = torch.export.export(quantized, example, dynamic_shapes=shapes, strict=False)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "model.pte").write_bytes(lowered.to_executorch().buffer)


def _quantized(module: Any, example: Any) -> Any:
    """PT2E, dynamic int8 activations, int8 weights by channel: the documented way for linears."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    prepared = prepare_pt2e(module, XNNPACKQuantizer().set_global(config))
    prepared(*example)
    return convert_pt2e(prepared)


def _pooled(folder: Path) -> tuple[Any, Any]:
    """The encoder with mean pooling and normalization, and example inputs."""
    import torch
    from transformers import AutoModel

    body = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            # A ready 4-D float mask: masks made inside do not export with a free length.
            bias = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
            states = self.body(input_ids=input_ids, attention_mask=bias)[0]
            kept = attention_mask[:, :, None].float()
            mean = (states * kept).sum(1) / kept.sum(1)
            return torch.nn.functional.normalize(mean, dim=1)

    ids = torch.arange(1000, 1064)[None]
    return Pooled().eval(), (ids, torch.ones_like(ids))


def _write_meta(folder: Path, checkpoint: Path, params: Path) -> None:
    """consolidated.pth and params.json of a Llama checkpoint with one safetensors file."""
    import torch
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text("utf-8"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    tensors = load_file(folder / "model.safetensors")
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    found = {}
    for name, tensor in tensors.items():
        kind = name.split(".")[-2]
        if kind in ("q_proj", "k_proj"):
            tensor = _interleaved(tensor, heads if kind == "q_proj" else kv_heads)
        found[_meta_name(name)] = tensor
    torch.save(found, checkpoint)
    params.write_text(json.dumps({
        "dim": config["hidden_size"], "hidden_dim": config["intermediate_size"],
        "n_heads": heads, "n_kv_heads": kv_heads, "n_layers": config["num_hidden_layers"],
        "norm_eps": config["rms_norm_eps"], "rope_theta": config["rope_theta"],
        "use_scaled_rope": False, "vocab_size": config["vocab_size"], "use_hf_rope": False,
        "attention_qkv_bias": False,
    }), "utf-8")  # fmt: skip


def _interleaved(weight: Any, heads: int) -> Any:
    """Rows of q or k [heads * dim, in] from halves (Hugging Face) to neighbouring pairs (Meta)."""
    rows, columns = weight.shape
    halves = weight.view(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns).contiguous()


def _meta_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    found = re.fullmatch(r"model\.(layers\.\d+)\.(.+)\.weight", name)
    if not found:
        raise SystemExit(f"{name}: not a tensor of a Llama checkpoint")
    return f"{found[1]}.{NAMES[found[2]]}.weight"


def main() -> None:
    """One of the two commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=("decoder", "encoder"))
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("precision", choices=("int4", "int8", "float32"))
    options = parser.parse_args()
    (decoder if options.kind == "decoder" else encoder)(options)


if __name__ == "__main__":
    main()
