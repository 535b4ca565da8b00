"""llama.cpp for arm64, cross-compiled from the sources of llama-cpp-python: minutes of work."""
from __future__ import annotations

import re
import shutil
from pathlib import Path

from edgecompile.emulate.tools import COMPILER, run
from edgecompile.errors import BadInputError

# A backend for the best of each level's instructions; the library takes the best that runs. The
# others of its list are left out: SME needs a newer compiler than Debian 12's.
VARIANTS = ("armv8.0_1", "armv8.2_2", "armv8.6_2")
OPTIONS = {
    "CMAKE_SYSTEM_NAME": "Linux",
    "CMAKE_SYSTEM_PROCESSOR": "aarch64",
    "CMAKE_C_COMPILER": COMPILER.replace("g++", "gcc"),
    "CMAKE_CXX_COMPILER": COMPILER,
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_NATIVE": "OFF",
    "GGML_BACKEND_DL": "ON",
    "GGML_CPU_ALL_VARIANTS": "ON",
    "GGML_OPENMP": "OFF",
    "GGML_LLAMAFILE": "OFF",
    "LLAMA_BUILD_COMMON": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_TOOLS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF",
}
VARIANT_LINE = re.compile(r"^ *ggml_add_cpu_backend_variant\((\w+\.\w+)\b.*\n", re.M)


def build(unpacked: tuple[Path, ...], out: Path) -> None:
    """Fill include/ and lib/ from the unpacked source archive."""
    source = next(iter(unpacked[0].glob("*/vendor/llama.cpp")), None)
    if source is None:
        raise BadInputError(str(unpacked[0]), "no vendor/llama.cpp", "llama-cpp-python's sources")
    keep_variants(source / "ggml" / "src" / "CMakeLists.txt")
    work = unpacked[0] / "build"
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    run(["cmake", "-G", "Ninja", "-S", str(source), "-B", str(work), *options], "cmake, llama.cpp")
    run(["nice", "ninja", "-C", str(work), "llama"], "compiling llama.cpp for arm64")
    shutil.copytree(source / "include", out / "include")
    shutil.copytree(source / "ggml" / "include", out / "include", dirs_exist_ok=True)
    shutil.copytree(
        work / "bin", out / "lib", symlinks=True,
        ignore=lambda _, names: [name for name in names if ".so" not in name],
    )  # fmt: skip


def keep_variants(lists: Path) -> None:
    """Drop all of llama.cpp's processor backends but VARIANTS from its CMakeLists.txt."""
    text = lists.read_text()
    found = VARIANT_LINE.findall(text)
    if missing := sorted(set(VARIANTS) - set(found)):
        raise BadInputError(str(lists), f"no variants {', '.join(missing)}", ", ".join(found))

    def kept(line: re.Match[str]) -> str:
        return line.group() if line.group(1) in VARIANTS else ""

    lists.write_text(VARIANT_LINE.sub(kept, text))
