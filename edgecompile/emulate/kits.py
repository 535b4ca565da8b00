"""An engine's headers and aarch64 libraries: made once of pinned downloads, kept in the cache."""
from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import cache
from edgecompile.emulate import libraries, llama
from edgecompile.emulate.downloads import Download, fetch, unpack
from edgecompile.emulate.tools import need
from edgecompile.errors import UnsupportedError

MANYLINUX = tuple(f"manylinux_2_{minor}_aarch64" for minor in (17, 28, 31, 34, 35))


@dataclass(frozen=True)
class Kit:
    """How to make `include/` and `lib/` of downloads, and how to compile the engine's shim."""

    engine: str
    version: str
    downloads: tuple[Download, ...]
    make: Callable[[tuple[Path, ...], Path], None]  # (unpacked downloads, folder to fill)
    sources: tuple[str, ...]  # in shims/cpp
    flags: tuple[str, ...] = ()  # for the compiler, after the sources; {lib} and {include}
    programs: tuple[str, ...] = ()  # that `make` runs

    def folder(self) -> Path:
        """The finished kit; downloads and builds what it needs at the first call."""
        pins = [(one.file, one.sha256) for one in self.downloads]
        maker = Path(str(inspect.getsourcefile(self.make))).read_text()
        made = digest(self.engine, pins, maker)  # not cache.key: no Python library shapes it
        return cache.stage(f"emulate.{self.engine}", made, self._fill)[0]

    def _fill(self, out: Path) -> None:
        need(*self.programs)
        with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
            unpacked = []
            for at, download in enumerate(self.downloads):
                folder = Path(scratch) / str(at)
                folder.mkdir()
                unpack(fetch(download, folder), folder / "in")
                unpacked.append(folder / "in")
            self.make(tuple(unpacked), out)


def digest(*parts: Any) -> str:
    """SHA-256 of plain values: the name of a stage."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def kit_of(engine: str) -> Kit:
    """The kit of an engine by its name in manifests."""
    if engine not in KITS:
        raise UnsupportedError("--on", f"engine {engine!r}", " or ".join(KITS))
    return KITS[engine]


KITS: Mapping[str, Kit] = {
    kit.engine: kit
    for kit in (
        Kit(
            "onnxruntime", "1.31.1",
            (
                Download(
                    "pip", "onnxruntime", "1.31.1",
                    "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_aarch64.whl",
                    "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3", MANYLINUX,
                ),
                # The wheel has no headers; ONNX Runtime takes any older header's calls.
                Download(
                    "npm", "com.github.asus4.onnxruntime", "0.4.9",
                    "com.github.asus4.onnxruntime-0.4.9.tgz",
                    "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d",
                ),
            ),
            libraries.onnxruntime, ("engine_onnxruntime.cpp",), ("-ldl",),
        ),
        Kit(
            "executorch", "1.5.1",
            (
                Download(
                    "pip", "executorch", "1.5.1",
                    "executorch-1.5.1-cp311-cp311-manylinux_2_28_aarch64.whl",
                    "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a", MANYLINUX,
                ),
            ),
            libraries.executorch, ("engine_executorch.cpp", "executorch_attention.cpp"),
            (
                '-DEXECUTORCH_VERSION="1.5.1"', "-DC10_USING_CUSTOM_GENERATED_MACROS",
                "-isystem{include}/executorch/runtime/core/portable_type/c10", "-L{lib}",
                # Kernels and delegates register themselves: nothing refers to them by name.
                "-Wl,--no-as-needed", *(f"-l{name}" for name in libraries.EXECUTORCH),
            ),
        ),
        Kit(
            "openvino", "2026.4.1",
            (
                Download(
                    "pip", "openvino", "2026.4.1",
                    "openvino-2026.4.1-22982-cp311-cp311-manylinux_2_35_aarch64.whl",
                    "bea1eb3733c34ef331adc945da0ccda5937865031139073663be84c517ffda22", MANYLINUX,
                ),
            ),
            libraries.openvino, ("engine_openvino.cpp",),
            ("-L{lib}", "-l:libopenvino.so.2641", "-Wl,-rpath-link,{lib}"),
        ),
        Kit(
            "llama_cpp", "0.3.36",
            (
                Download(
                    "pip", "llama-cpp-python", "0.3.36", "llama_cpp_python-0.3.36.tar.gz",
                    "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
                ),
            ),
            llama.build, ("engine_llama.cpp",),
            ("-L{lib}", "-lllama", "-lggml", "-lggml-base", "-ldl"), ("cmake", "ninja"),
        ),
    )
}  # fmt: skip
