"""What a model's tensors are for, from its torch module built without memory (meta device)."""
from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgecompile.errors import BadInputError
from edgecompile.model import Model

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


def roles(model: Model) -> Mapping[str, str]:
    """Source tensor -> `linear`, `convolution`, `embedding` (the input vocabulary), or `other`.

    Tensors that the task's module has no place for (a pooler) are `unused`. Shapes that differ from
    the config raise BadInputError that names the tensor.
    """
    from edgecompile.numerics.swap import parameter_names

    module = skeleton(model)
    names = parameter_names(module, model.weights)
    for source, name in names.items():
        found, expected = model.weights.infos[source].shape, tuple(module.state_dict()[name].shape)
        if found != expected:
            where = model.source.reference
            raise BadInputError(where, f"{source} has shape {found}", str(expected))
    found_roles = _parameter_roles(module)
    return {
        source: found_roles.get(names[source], "other") if source in names else "unused"
        for source in model.weights
    }


def filled_in(model: Model) -> PretrainedConfig:
    """The config with transformers' own defaults, under its common names.

    BadInputError for one that transformers refuses. It changes tables in place: it gets a copy.
    """
    from transformers import CONFIG_MAPPING

    settings = {k: copy.deepcopy(v) for k, v in model.config.items() if k != "auto_map"}
    try:
        return CONFIG_MAPPING[model.architecture].from_dict(settings)
    except Exception as error:  # its checks raise classes of several libraries
        where, found = f"{model.source.reference}: config.json", f"{type(error).__name__}: {error}"
        raise BadInputError(where, found[:300], "a config that transformers takes") from error


def skeleton(model: Model) -> nn.Module:
    """The model's module on the meta device (a user's own module as it builds itself)."""
    import torch

    from edgecompile.modules import build_entry_point, build_transformer

    if model.entry_point:
        return build_entry_point(model.entry_point).module
    with torch.device("meta"):
        return build_transformer(model, "eager")


def _parameter_roles(module: nn.Module) -> dict[str, str]:
    from torch import nn

    embedding = None
    text = getattr(module, "text_model", module)  # of a model of texts and pictures
    with contextlib.suppress(AttributeError, NotImplementedError):  # a model of pictures has none
        embedding = text.get_input_embeddings()  # type: ignore[operator]
    found: dict[str, str] = {}
    for path, child in module.named_modules():
        if isinstance(child, nn.Linear):
            found[f"{path}.weight" if path else "weight"] = "linear"
        elif isinstance(child, nn.Conv1d | nn.Conv2d):
            found[f"{path}.weight" if path else "weight"] = "convolution"
        elif isinstance(child, nn.Embedding) and child is embedding:
            found[f"{path}.weight"] = "embedding"
    return found

