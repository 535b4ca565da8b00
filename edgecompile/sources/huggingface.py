"""Load a Hugging Face directory: safetensors, config, tokenizer, sentence-transformers modules."""
from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecompile.architectures import common, turned
from edgecompile.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.model import Licence, Model, Pooling, Source, TensorInfo, Weights
from edgecompile.runtime.audio import AudioInput
from edgecompile.runtime.pictures import PictureInput
from edgecompile.sources import card, heads, processors, text_part, towers
from edgecompile.sources.safetensors_header import read_header
from edgecompile.tasks import IMAGE_TEXT, TASKS, takes_pictures

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
    "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json", "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "generation_config.json", "modules.json", "sentence_bert_config.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
EMBEDDED = "model.decoder.embed_tokens.weight"
LICENCE_FILES = re.compile(r"(licen[cs]e|notice|use_policy|acceptable_use).*", re.IGNORECASE)
TASK_OF_SUFFIX = {ending: name for name, task in TASKS.items() for ending in task.endings}
# Classes whose inputs or outputs no task here has; a torch module may still wrap them.
OTHER_SUFFIXES = (
    "ForConditionalGeneration", "ForSeq2SeqLM", "ForObjectDetection",
    "ForSemanticSegmentation", "ForAudioClassification", "ForCTC", "ForQuestionAnswering",
    "CLIPTextModel", "CLIPVisionModel", "CLIPTextModelWithProjection",
    "CLIPVisionModelWithProjection", "SiglipModel", "Siglip2Model",
)  # fmt: skip
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_lasttoken": "lasttoken",
}


def describe(folder: Path, name: str, task: str = "") -> Model:
    """The model from its config and headers alone: no weight is read, the digest is empty."""
    config = read_json(folder / "config.json")
    infos = {
        tensor: info
        for file in weight_files(folder)
        for tensor, info in read_header(file).items()
    }
    config, infos, notes = text_part.of(config, infos)
    infos = {
        name: _as_out_in(info) if turned(str(config.get("model_type")), name) else info
        for name, info in infos.items() if not _copied(name, infos, config)
    }
    task = task or task_of(folder, config)
    if task == "text-ranking":
        heads.refuse_ranking(folder, config)
    source = Source("huggingface", str(folder), "", notes)
    found = Model(
        name, task, folder, config, Weights(infos), source, licence(folder),
        pooling=_pooling(folder, config) if task == "embedding" else None,
        pictures=_pictures(folder) if takes_pictures(task) else None,
        audio=_audio(folder, config) if TASKS[task].takes == "sound" else None,
    )  # fmt: skip
    return towers.described(found) if task == IMAGE_TEXT else found


def _as_out_in(info: TensorInfo) -> TensorInfo:
    """A matrix that the file has as [in, out]."""
    return replace(info, shape=info.shape[::-1], turned=True)


def _copied(name: str, infos: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> bool:
    """Whether a tensor is the embedding, stored twice.

    T5's config says by a scale of the last activations, not by that key, whether the head is: it
    is tied where they are scaled.
    """
    if name.endswith("coder.embed_tokens.weight") and "shared.weight" in infos:
        return True
    if name == "proj_out.weight" and EMBEDDED in infos:  # Whisper's head
        return bool(config.get("tie_word_embeddings", True))
    if name != "lm_head.weight" or len(infos) == 1:
        return False
    scaled = config.get("model_type") != "t5" or config.get("scale_decoder_outputs", True)
    tied = common(config).get("tie_word_embeddings", config.get("model_type") == "t5")
    return bool(tied and scaled)


def _pictures(folder: Path) -> PictureInput:
    found = processors.picture_input(folder)
    if found is None:
        raise BadInputError(
            str(folder), "nothing says how pictures are prepared", "preprocessor_config.json",
            "save the model's image processor beside it: AutoImageProcessor.save_pretrained",
        )  # fmt: skip
    return found


def _audio(folder: Path, config: Mapping[str, Any]) -> AudioInput:
    """How sound is prepared, which must be what the model's graph takes."""
    found = processors.audio_input(folder)
    if found is None:
        raise BadInputError(
            str(folder), "nothing says how sound is prepared", "preprocessor_config.json",
            "save the feature extractor beside it: WhisperFeatureExtractor.save_pretrained",
        )  # fmt: skip
    wanted = (config.get("num_mel_bins", 80), 2 * int(config.get("max_source_positions", 1500)))
    if (found.n_mels, found.frames) != wanted:
        raise BadInputError(
            str(folder), f"a front end of {found.n_mels} mel filters and {found.frames} frames",
            f"{wanted[0]} and {wanted[1]}, by config.json",
        )  # fmt: skip
    return found


def digest(model: Model) -> str:
    """SHA-256 over the names and SHA-256 of the weight, config and tokenizer files."""
    files = sorted({info.file for info in model.weights.infos.values()})
    names = ("config.json", *TOKENIZER_FILES, "1_Pooling/config.json")
    files += [model.folder / name for name in names if (model.folder / name).is_file()]
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(sha256, files))
    lines = (f"{file.name}={value}\n" for file, value in zip(files, sums, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files, shards in order; refuses pickles with the way to convert them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        return [_shard(folder, str(shard)) for shard in shards]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = [file.name for file in folder.glob("*.bin")] + [f.name for f in folder.glob("*.pt")]
    if pickles:
        raise BadInputError(
            str(folder), f"only pickled weights ({pickles[0]})", "model.safetensors",
            "a pickle can run code, so it is never opened here; where you trust it: python -c "
            "\"from transformers import AutoModel as A; "
            "A.from_pretrained('IN').save_pretrained('OUT')\" (with the Auto class of your task)",
        )  # fmt: skip
    raise BadInputError(str(folder), "no weights", "model.safetensors or its shards and index")


def _shard(folder: Path, name: str) -> Path:
    if "/" in name or "\\" in name or name.startswith("."):
        raise BadInputError(str(folder), f"the index names a file outside the folder: {name!r}")
    if not (folder / name).is_file():
        found = f"shard {name} is missing"
        raise BadInputError(str(folder), found, way_out="copy it beside the index")
    return folder / name


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; raises BadInputError that shows where it breaks."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        where, found = str(file.parent), f"no {file.name}"
        raise BadInputError(where, found, "a Hugging Face model folder") from error
    except (ValueError, OSError) as error:
        raise BadInputError(str(file), f"not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        if file.name == "modules.json" and isinstance(value, list):
            return {"modules": value}
        raise BadInputError(str(file), f"a JSON {type(value).__name__}", "an object")
    return value


def licence(folder: Path) -> Licence:
    """What the model card's front matter says, and the licence files beside it."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and LICENCE_FILES.fullmatch(f.name))
    if (folder / card.CARD).is_file():
        files.append(folder / card.CARD)
    fields = card.front_matter(folder)
    link = card.text_of(fields, "license_link")
    policy = next((f.name for f in files if "use" in f.name.lower()), link)
    identity = card.text_of(fields, "license_name") or ",".join(card.texts_of(fields, "license"))
    return Licence(identity or "unknown", tuple(files), policy)


def task_of(folder: Path, config: dict[str, Any]) -> str:
    """The task by modules.json or the class name in the config; else UsageError names --task."""
    if (folder / "modules.json").is_file():
        return "embedding"
    for architecture in config.get("architectures") or ():
        for suffix, task in TASK_OF_SUFFIX.items():
            if architecture.endswith(suffix):
                one = task == "classification" and heads.has_one_label(config)
                return "text-ranking" if one else task
        if architecture.endswith(OTHER_SUFFIXES):
            tasks = ", ".join(name for name in TASKS if name != "module")
            raise UnsupportedError(
                str(folder), f"{architecture} (model_type {config.get('model_type')!r})",
                f"a model for {tasks}; docs/architectures.md lists them",
                "wrap it in a torch module: package.module:function",
            )  # fmt: skip
    raise UsageError(
        str(folder), f"the task is not plain from architectures {config.get('architectures')}",
        way_out="add --task with one of " + ", ".join(n for n in TASKS if n != "module"),
    )  # fmt: skip


def _pooling(folder: Path, config: dict[str, Any]) -> Pooling:
    """From modules.json (sentence-transformers); a bare encoder gets mean pooling, normalized."""
    longest = int(common(config).get("max_position_embeddings", 512))
    if not (folder / "modules.json").is_file():
        return Pooling("mean", True, longest)
    modules = read_json(folder / "modules.json")["modules"]
    kinds = {str(entry["type"]).rsplit(".", 1)[-1]: str(entry["path"]) for entry in modules}
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise BadInputError(
            str(folder / "modules.json"), f"a module of type {sorted(unknown)[0]}",
            "Transformer, Pooling and Normalize only",
        )  # fmt: skip
    table = read_json(folder / kinds.get("Pooling", "1_Pooling") / "config.json")
    modes = [mode for key, mode in POOLING_KEYS.items() if table.get(key)]
    modes = modes or _texts(table.get("pooling_mode"))
    if len(modes) != 1:
        raise BadInputError(str(folder), f"pooling modes {modes}", "exactly one")
    settings = folder / "sentence_bert_config.json"
    limit = read_json(settings).get("max_seq_length") if settings.is_file() else None
    return Pooling(modes[0], "Normalize" in kinds, min(int(limit or longest), longest))


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def sha256(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tokenizer_files(folder: Path) -> Iterable[Path]:
    """The tokenizer's files that are present, in a fixed order."""
    return (folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
