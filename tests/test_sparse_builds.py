"""Builds with zeros in weights or a window in attention: which are refused, and what ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgecompile import build as builder
from edgecompile import registry, sources
from edgecompile.backends.gguf_metadata import context_length
from edgecompile.build import BuildResult
from edgecompile.compress import compress
from edgecompile.errors import UnsupportedError
from edgecompile.passes.attention import Attention
from edgecompile.plan import Plan, Request, plan
from tests import tiny

FEW = ("check.texts=8", "check.tokens=512", "quantize.texts=8", "quantize.length=32")
WANDA = ("prune.method=wanda", "prune.pattern=2:4", "prune.texts=8", "prune.length=32")


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def planned(
    model: Path, out: Path, target: str, settings: tuple[str, ...], allow: tuple[str, ...] = ()
) -> Plan:
    return plan(Request(str(model), (target,), out=out, settings=settings, allow=allow))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.mark.parametrize("target", ["cpu", "gguf", "mobile"])
def test_zeros_that_an_engine_does_not_skip_are_refused(
    target: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="no smaller and no faster") as caught:
        planned(llama, tmp_path, target, (*WANDA, *FEW))
    assert "--allow no-gain" in str(caught.value)
    assert caught.value.exit_code == 3


def test_they_are_allowed_by_name(llama: Path, tmp_path: Path) -> None:
    assert planned(llama, tmp_path, "cpu", (*WANDA, *FEW), ("no-gain",)).targets


def test_compress_writes_them_without_asking(llama: Path, tmp_path: Path) -> None:
    done = compress(Request(str(llama), (), settings=WANDA), tmp_path / "sparse", quiet)
    assert done.notes == ("prune_wanda: 2:4 zeros in 14 matrices",)


@pytest.mark.parametrize(
    ("setting", "says"),
    [("distill.soft=1", "trains all weights"), ("quantize.method=importance", "Q4_K")],
)
def test_what_would_fill_the_zeros_is_refused(
    setting: str, says: str, llama: Path, tmp_path: Path
) -> None:
    settings = (*WANDA, "check.texts=8", setting)
    with pytest.raises(UnsupportedError, match=says):
        planned(llama, tmp_path, "gguf", settings, ("no-gain",))


ENGINES = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "executorch")
]  # fmt: skip


@pytest.mark.parametrize(
    "backend", ["onnxruntime", *ENGINES, pytest.param("gguf", marks=pytest.mark.slow)]
)
def test_zeros_are_zeros_in_the_sealed_file(backend: str, llama: Path, tmp_path: Path) -> None:
    target = "gguf" if backend == "gguf" else "cpu"
    options = () if backend == "gguf" else (f"target.backend={backend}",)
    settings = (*WANDA, *FEW, "quantize.method=gptq", *options)
    [result] = builder.build(planned(llama, tmp_path, target, settings, ("no-gain",)), quiet)
    shares = {name: share for name, share in zeros(result, backend).items() if ".layers." in name}
    assert len(shares) == 14
    assert min(shares.values()) >= 0.5
    assert row(result, "codes_differing").verdict == "pass"


def zeros(result: BuildResult, backend: str) -> dict[str, float]:
    """Share of code 0, by tensor, read back from the sealed files; in every group of 4 two."""
    from edgecompile.runtime.manifest import read_manifest

    manifest = read_manifest(result.bundle).data
    chosen = registry.create("backends", backend, {}, "test")
    decoded = chosen.decode(result.bundle / "model", manifest).quantized
    found = {}
    for name in decoded:
        codes = decoded[name].codes
        fours = (codes.reshape(len(codes), -1, 4) == 0).sum(2)
        found[name] = float((codes == 0).mean()) if (fours >= 2).all() else 0.0
    return found


def row(result: BuildResult, metric: str) -> object:
    return next(one for one in result.report.rows if one.metric == metric)


@pytest.mark.parametrize("backend", ["onnxruntime", *ENGINES])
@pytest.mark.parametrize("dense_every", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_window_is_in_the_engines_graph(
    backend: str, dense_every: int, llama: Path, tmp_path: Path
) -> None:
    settings = (
        "attention.window=8", f"attention.dense_every={dense_every}", "quantize.method=none",
        "check.texts=8", "check.tokens=512", f"target.backend={backend}",
    )  # fmt: skip
    [result] = builder.build(planned(llama, tmp_path, "cpu", settings, ("no-gain",)), quiet)
    exact = [one for one in result.report.rows if one.metric in ("kl_mean", "export_kl_mean")]
    assert exact
    assert all(one.verdict == "pass" for one in exact)


def test_what_a_window_lost_is_judged_against_dense_attention(llama: Path, tmp_path: Path) -> None:
    settings = ("attention.window=8", "quantize.method=none", "check.texts=8", "check.tokens=512")
    [result] = builder.build(planned(llama, tmp_path, "cpu", settings, ("no-gain",)), quiet)
    kept = next(one for one in result.report.rows if one.metric == "kept_kl_mean")
    rounded = next(one for one in result.report.rows if one.metric == "kl_mean")
    assert kept.step == "kept"
    assert np.isfinite(kept.value)
    assert kept.value > 100 * max(rounded.value, 1e-9)


def test_llama_cpp_ends_the_context_with_the_window(llama: Path) -> None:
    model = sources.load(sources.resolve(str(llama)), quiet)
    assert context_length(Attention(window=64).headers(model)) == 64
