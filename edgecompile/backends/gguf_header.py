"""What stands before the tensors of our GGUF file: places, metadata, vocabulary."""
from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import gguf

from edgecompile.backends import gguf_blocks, gguf_card, gguf_metadata, gguf_tokens
from edgecompile.backends.gguf_layout import LAYOUTS, Layout, Value, stored_names, unused_reason
from edgecompile.model import Model
from edgecompile.sources.gguf_file import read_gguf

_FILE_TYPES = {
    gguf.GGMLQuantizationType.F32: gguf.LlamaFileType.ALL_F32,
    gguf.GGMLQuantizationType.F16: gguf.LlamaFileType.MOSTLY_F16,
    gguf_blocks.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
    gguf_blocks.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}


def places(model: Model, layout: Layout) -> dict[str, str]:
    """Source name -> GGUF name of the tensors that are written, in the source's order."""
    names = stored_names(layout, int(model.common_config["num_hidden_layers"]), model.weights)
    return {
        source: stored
        for source, stored in names.items()
        if stored and not unused_reason(source, model.config)
    }


def write_metadata(
    writer: gguf.GGUFWriter, model: Model, kinds: Mapping[str, gguf.GGMLQuantizationType]
) -> None:
    """The card's facts, hyperparameters and vocabulary; `kinds` are types by source tensor."""
    most = Counter(kinds[source] for source in kinds if len(model.weights.infos[source].shape) > 1)
    writer.add_type("model")
    writer.add_name(model.name)
    parameters = sum(math.prod(model.weights.infos[source].shape) for source in kinds)
    _add(writer, gguf_card.metadata(model, parameters))
    writer.add_file_type(int(_FILE_TYPES[most.most_common(1)[0][0]]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    rows = vocabulary_rows(model)
    tokenizer = gguf_tokens.tokenizer_metadata(model.folder, rows)
    _add(writer, gguf_metadata.hyperparameters(model) | tokenizer)


def _add(writer: gguf.GGUFWriter, values: Mapping[str, Value]) -> None:
    for key, value in values.items():
        _ADD[type(value)](writer, key, value)


_ADD: Mapping[type, Callable[[gguf.GGUFWriter, str, Any], None]] = {
    bool: gguf.GGUFWriter.add_bool,
    int: gguf.GGUFWriter.add_uint32,
    float: gguf.GGUFWriter.add_float32,
    str: gguf.GGUFWriter.add_string,
    list: gguf.GGUFWriter.add_array,
}


def vocabulary_bytes(model: Model) -> int:
    """Metadata: tokens with length, score and type, and merges, each with an 8-byte length."""
    if not_converted(model):
        file = read_gguf(next(iter(model.weights.infos.values())).file)
        starts = [tensor.offset for tensor in file.tensors.values() if tensor.file == file.path]
        return min(starts, default=file.path.stat().st_size)
    table = json.loads((model.folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sum(len(token.encode()) + 12 for token in table.get("vocab", ()))
    merges = (m if isinstance(m, str) else " ".join(m) for m in table.get("merges", ()))
    return tokens + sum(len(merge.encode()) + 8 for merge in merges) + 4096


def vocabulary_rows(model: Model) -> int:
    """Rows of the embedding, which may be more than the tokenizer's."""
    there = places(model, LAYOUTS[model.architecture])
    source = next(source for source, stored in there.items() if stored == "token_embd.weight")
    return model.weights.infos[source].shape[0]


def not_converted(model: Model) -> bool:
    """A GGUF source before `load`: its tokenizer is in its own header, which was read."""
    return any(info.file.suffix == ".gguf" for info in model.weights.infos.values())
