"""torch.export and AOTInductor: a module to a .pt2 that holds native code and no tensor."""
from __future__ import annotations

import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgecompile.backends.aotinductor_graph.coded import Coded
from edgecompile.backends.aotinductor_graph.levels import Level
from edgecompile.backends.quiet import quiet
from edgecompile.errors import UnsupportedError
from edgecompile.graphs import Graph

WHERE = "aotinductor backend"
FILE = "model.pt2"
FOLDED = "_FOLDED_CONST_"  # what the code computes once from its constants, as it is first run
INSIDE = "model/data/aotinductor/model/"
DATE = (1980, 1, 1, 0, 0, 0)
MARKS = {  # what marks an archive as a .pt2
    "archive_format": "pt2", "archive_version": "0", "byteorder": "little",
    ".data/version": "6\n",
}  # fmt: skip
# Inductor's own command line, without the folders of this machine in what comes out.
COMPILER = """#!/bin/sh
exec g++ -ffile-prefix-map="$TORCHINDUCTOR_CACHE_DIR"=. -ffile-prefix-map={torch}=torch "$@"
"""


def settings(level: Level) -> dict[str, Any]:
    """Every setting that would otherwise follow the building machine or its folders."""
    return {
        "aot_inductor.package_constants_in_so": False,
        "aot_inductor.use_runtime_constant_folding": True,
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.precompile_headers": False,
        "aot_inductor.model_name_for_generated_files": "edgecompile",
        "cpp.march": level.march, "cpp.simdlen": level.bits,
        "cpp.vec_isa_ok": True,
        "cpp.threads": -1, "cpp.dynamic_threads": True,
    }  # fmt: skip


def write(one: Graph, coded: Coded, device: str, level: Level, file: Path) -> dict[str, Tensor]:
    """Compile to `file`; the constants that the code asks for, by name."""
    any_size = torch.export.Dim.DYNAMIC
    free = tuple(dict.fromkeys(one.axes.get(name, {}), any_size) for name in one.given)
    try:
        with quiet(), torch.no_grad(), tempfile.TemporaryDirectory(prefix=".pt2-") as scratch:
            given = tuple(value.to(device) for value in one.given.values())
            shapes = {"inputs": free} if one.axes else None
            program = torch.export.export(coded.to(device), given, dynamic_shapes=shapes)
            made = Path(scratch) / FILE
            _compile(program, made, level, Path(scratch) / "cache")
            repack(made, file)
    except Exception as error:  # torch's classes share no base but Exception
        reason = str(error).strip().splitlines() or [repr(error)]
        raise UnsupportedError(
            WHERE, f"this module cannot be compiled: {reason[0][:300]}",
            way_out="try another backend (`edgecompile targets`), or avoid the operation it names",
        ) from error  # fmt: skip
    return _constants(file, coded, program.constants)


def _compile(program: Any, made: Path, level: Level, scratch: Path) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    scratch.mkdir()
    compiler = scratch / "g++"
    compiler.write_text(COMPILER.format(torch=Path(torch.__file__).parent))
    compiler.chmod(0o755)
    configs = settings(level) | {"cpp.cxx": (str(compiler),)}
    kept = list(sys.path)
    try:
        with fresh_cache(dir=str(scratch)):
            aoti_compile_and_package(program, package_path=str(made), inductor_configs=configs)
    finally:
        sys.path[:] = kept  # torch imports setuptools, which puts copies of libraries there


def repack(made: Path, file: Path) -> None:
    """The native code and what the loader asks for, under fixed names and dates.

    torch's own archive holds the C++ sources as well, under names by hash and a random id.
    """
    with zipfile.ZipFile(made) as found, zipfile.ZipFile(file, "w") as whole:
        parts = {name: found.read(name) for name in found.namelist()}
        kept = {INSIDE + Path(n).name: data for n, data in parts.items() if _is_needed(n)}
        kept |= {f"model/{name}": text.encode() for name, text in MARKS.items()}
        content = hashlib.sha256(b"".join(kept[name] for name in sorted(kept))).hexdigest()
        kept["model/.data/serialization_id"] = content[:40].encode()
        for name in sorted(kept):
            whole.writestr(zipfile.ZipInfo(name, DATE), kept[name])


def _is_needed(name: str) -> bool:
    return "/data/aotinductor/" in name and not name.endswith((".cpp", "kernel_metadata.json"))


def _constants(
    file: Path, coded: Coded, lifted: Mapping[str, Any]
) -> dict[str, Tensor]:
    """By the names that the compiled code has for them; those that it computes itself left out."""
    loader = torch._C._aoti.AOTIModelPackageLoader(str(file), "model", False, 1, -1)
    values: dict[str, Any] = {**lifted, **dict(coded.named_parameters())}
    values |= dict(coded.named_buffers())
    names = [name for name in loader.get_constant_fqns() if not name.startswith(FOLDED)]
    if lost := sorted(set(names) - set(values)):
        raise UnsupportedError(WHERE, f"the compiled code reads {lost[0]!r}", "a known constant")
    return {name: values[name].detach().cpu().contiguous() for name in sorted(names)}
