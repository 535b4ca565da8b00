"""A model's torch module: transformers' class on its config, or what a user's function returns."""
from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecompile.architectures import turned
from edgecompile.entry import imported
from edgecompile.errors import MissingLibraryError, UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

# no_init_weights changes torch.nn.init for the whole process: two at once would leave it changed.
_ONE_AT_A_TIME = threading.Lock()


def build_transformer(model: Model, attention: str) -> nn.Module:
    """The transformers class of the model's task on its config, float32, weights not yet set."""
    import torch
    import transformers

    without_torchao()
    from transformers.initialization import no_init_weights

    mapping = transformers.CONFIG_MAPPING
    if model.architecture not in mapping:
        raise UnsupportedError(
            model.name,
            f"model_type {model.architecture!r} is unknown to transformers "
            f"{transformers.__version__}",
            way_out="give it as package.module:function; code from a model folder never runs",
        )
    from edgecompile.numerics.linears import as_linear
    from edgecompile.structure import filled_in

    config = filled_in(model)
    auto = getattr(transformers, TASKS[model.task].auto)
    with _ONE_AT_A_TIME, no_init_weights():
        try:
            module = auto.from_config(
                config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False
            )
        except ValueError as error:
            raise UnsupportedError(
                model.name, f"{model.architecture} has no {auto.__name__}: {error}"
            ) from error
    if model.task == "embedding" and getattr(module, "pooler", None) is not None:
        module.pooler = None  # sentence embeddings are pooled from token vectors
    built: nn.Module = module
    as_linear(built, partial(turned, model.architecture))
    return built


def without_torchao() -> None:
    """Keep transformers from importing torchao (1 s, and warnings on stderr): no model here is its.

    It comes with ExecuTorch, whose backend imports it where it is needed.
    """
    from transformers import utils

    if "transformers.modeling_utils" not in sys.modules:
        setattr(utils, "is_torchao_available", lambda *_: False)  # noqa: B010  (it is re-exported)


class EntryPoint(NamedTuple):
    """What a user's function returns: a torch module, example inputs by name, and a card.

    The card may say `task` (image-classification), `labels`, `pictures` (how one is prepared, as in
    a manifest) and `licence`; empty, the module takes and gives arrays.
    """

    module: nn.Module
    examples: dict[str, NDArray[Any]]
    card: Mapping[str, Any]


def build_entry_point(entry_point: str) -> EntryPoint:
    """Call `package.module:function` or `file.py:function`, which returns (module, inputs[, card]).

    Inputs are a tuple in the order of the module's forward, or a mapping.
    """
    place, _, function = entry_point.rpartition(":")
    try:
        build = getattr(imported(place), function)
    except (ImportError, AttributeError, ValueError, OSError, SyntaxError) as error:
        raise UsageError(
            entry_point, str(error), "package.module:function that can be imported from here"
        ) from error
    try:
        module, examples, *card = build()
        names = list(inspect.signature(module.forward).parameters)
    except ImportError as error:
        raise MissingLibraryError(entry_point, str(error), "what the function imports") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            entry_point, str(error), "a function that returns (torch module, example inputs)"
        ) from error
    if not isinstance(examples, Mapping):
        examples = dict(zip(names, examples, strict=False))
    arrays = {name: np.asarray(value) for name, value in examples.items()}
    return EntryPoint(module, arrays, card[0] if card else {})


def flat_outputs(result: Any) -> list[Tensor]:
    """The tensors of a module's result (a tensor, a sequence or a mapping), in its order."""
    import torch

    if isinstance(result, torch.Tensor):
        return [result]
    values = result.values() if isinstance(result, Mapping) else result
    return [tensor for value in values for tensor in flat_outputs(value)]
