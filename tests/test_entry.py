"""Modules named by their file: what is in them works as in any other module."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgecompile.entry import imported
from edgecompile.modules import build_entry_point

MODULE = """
from __future__ import annotations
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class Sizes:
    width: int = 3

def build():
    return torch.nn.Linear(Sizes().width, 2), (torch.zeros(1, Sizes().width),)
"""


def test_a_file_may_hold_dataclasses_whose_annotations_are_text(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(MODULE, encoding="utf-8")
    built = build_entry_point(f"{file}:build")
    assert {name: array.shape for name, array in built.examples.items()} == {"input": (1, 3)}


def test_a_file_takes_no_other_modules_name(tmp_path: Path) -> None:
    file = tmp_path / "json.py"
    file.write_text("here = True\n", encoding="utf-8")
    assert imported(str(file)).here
    assert sys.modules["json"] is json


def test_a_changed_file_is_run_anew(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("number = 1\n", encoding="utf-8")
    assert imported(str(file)).number == 1
    file.write_text("number = 22\n", encoding="utf-8")
    assert imported(str(file)).number == 22


def test_a_file_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("raise ValueError('no')\n", encoding="utf-8")
    before = set(sys.modules)
    with pytest.raises(ValueError, match="no"):
        imported(str(file))
    assert set(sys.modules) == before
