"""Each planted fault is caught, at its faintest known magnitude, and the report says where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.kinds import every_fault
from tests.faults.planting import Fault, checked, planted, reseal
from tests.faults.twins import Clones, Twin, copied

ALL = every_fault()
TWINS = list({fault.twin.name: fault.twin for fault in ALL}.values())


def asked(fault: Fault) -> Any:
    """Its test: in CI unless it is slow; a missed one has to be missed."""
    marks = [pytest.mark.slow] if fault.slow else []
    if fault.missed:
        marks.append(pytest.mark.xfail(strict=True, reason=fault.missed))
    return pytest.param(fault, id=fault.name, marks=marks)


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Clones:
    return Clones(tmp_path_factory.mktemp("twins"))


@pytest.mark.parametrize("twin", [pytest.param(twin, id=twin.name) for twin in TWINS])
def test_a_clean_twin_that_is_sealed_again_passes(
    twin: Twin, clones: Clones, tmp_path: Path
) -> None:
    clean = clones.get(twin)
    bundle = copied(clean.bundle, tmp_path / "bundle")
    reseal(bundle)
    outcome = checked(bundle, clean)
    assert not outcome.caught, outcome.refused or outcome.wrong


@pytest.mark.parametrize("fault", [asked(fault) for fault in ALL])
def test_a_fault_is_caught_and_its_stage_named(
    fault: Fault, clones: Clones, tmp_path: Path
) -> None:
    clean = clones.get(fault.twin)
    outcome = checked(planted(fault, clean, tmp_path), clean)
    assert outcome.caught
    assert outcome.stage == fault.stage, outcome.refused or outcome.wrong


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len({fault.name for fault in ALL}) == len(ALL)
