"""Low-rank adapters (peft): few weights learn, and are added to the model's own at the end."""
from __future__ import annotations

import logging
import warnings
from typing import Any

from torch import nn

from edgecompile.errors import UsageError
from edgecompile.train.options import LoraOptions


def adapted(module: nn.Module, options: LoraOptions, new_head: bool) -> nn.Module:
    """The module with adapters; a new head learns as a whole, everything else stays.

    Draws from torch's generator: seed it before.
    """
    for name in ("torchao", "torch.utils._pytree"):  # peft loads it, and it warns of its kernels
        logging.getLogger(name).setLevel(logging.ERROR)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout,
        target_modules=list(options.targets) or linear_names(module),
        modules_to_save=head_names(module) if new_head else None,
    )  # fmt: skip
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of names it reads
            wrapped: nn.Module = get_peft_model(module, config)
    except ValueError as error:
        way_out = f"names are: {', '.join(linear_names(module))}"
        raise UsageError("[train.lora] targets", str(error)[:200], way_out=way_out) from error
    return wrapped


def linear_names(module: nn.Module) -> list[str]:
    """Ends of the names of the linear layers in the body, in alphabetical order."""
    body = getattr(module, getattr(module, "base_model_prefix", ""), module)
    named = (name for name, one in body.named_modules() if isinstance(one, nn.Linear))
    return sorted({name.rpartition(".")[2] for name in named})


def head_names(module: nn.Module) -> list[str]:
    """The parts of a transformers module beside its body."""
    body = getattr(module, "base_model_prefix", "")
    children = module.named_children()
    return [name for name, part in children if name != body and list(part.parameters())]


def merged(module: nn.Module) -> nn.Module:
    """The plain module with the adapters added to its weights."""
    wrapped: Any = module
    whole: nn.Module = wrapped.merge_and_unload()
    return whole
