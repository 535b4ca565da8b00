"""A PEFT adapter folder is merged into its base, or refused with the way out."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgecompile import sources
from edgecompile.errors import BadInputError
from tests import tiny


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA adapter whose second factor is not zero, as training leaves it."""
    import peft
    import torch
    import transformers

    base = tiny.llama(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_changes_the_tensors_it_was_trained_for(adapter: Path) -> None:
    base = sources.load(sources.resolve(str(adapter.parent / "base")), quiet)
    merged = sources.load(sources.resolve(str(adapter)), quiet)
    name, other = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qk")
    assert not np.allclose(merged.weights.float32(name), base.weights.float32(name))
    assert (merged.weights.float32(other) == base.weights.float32(other)).all()


@pytest.mark.filterwarnings("ignore")
def test_a_base_that_is_not_here_is_asked_for(adapter: Path) -> None:
    (adapter.parent / "base").rename(adapter.parent / "moved")
    with pytest.raises(BadInputError, match=r"load\.base=FOLDER"):
        sources.describe(sources.resolve(str(adapter)))
