"""Tiny bundles for GPUs, written once; nothing of a GPU is needed to write one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgecompile.build import BuildResult, build
from edgecompile.checks import device
from edgecompile.plan import Request, plan
from edgecompile.runtime import providers
from tests import tiny

Built = Callable[..., BuildResult]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.llama(folder / "llama")
    tiny.bert(folder / "bert")
    return folder


def built(models: Path, out: Path, model: str, name: str, **more: object) -> BuildResult:
    """A tiny model (llama, bert) for a target, at 8 bits, checked on little text."""
    few = ("check.tokens=512", "check.texts=16")
    settings = ("quantize.method=rtn", "quantize.bits=8", *few)
    request = Request(
        str(models / model), (name,), out, settings=settings, allow=("no-gain", "not-run"),
        **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return next(iter(build(plan(request), quiet)))


@pytest.fixture
def build_for(models: Path, tmp_path: Path) -> Built:
    """As `built`, into a folder of the test's own."""

    def made(model: str, name: str, **more: object) -> BuildResult:
        return built(models, tmp_path / "dist", model, name, **more)

    return made


@pytest.fixture(scope="session")
def llama(models: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """The tiny llama for WebGPU, built where there is no such provider."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (providers.VARIABLE, device.VARIABLE):
            patch.delenv(name, raising=False)
        return built(models, tmp_path_factory.mktemp("dist"), "llama", "gpu-webgpu")
