"""A GGUF model in several files, as llama.cpp's gguf-split makes them of one."""
from __future__ import annotations

from pathlib import Path

import gguf

from edgecompile.errors import BadInputError
from edgecompile.sources.gguf_split import bare

MB = 1_000_000


def first_file(folder: Path, name: str) -> Path:
    """`folder`/NAME.gguf, or NAME-00001-of-....gguf where it is in several files."""
    stem = Path(name).stem
    parts = sorted(folder.glob(f"{stem}-00001-of-*.gguf"))
    found = [file for file in parts if bare(file.stem) == stem]
    if (folder / name).is_file() or not found:
        return folder / name
    if len(found) > 1:
        raise BadInputError(str(folder), f"{found[0].name} and {found[1].name}", "one model")
    return found[0]


def split(file: Path, folder: Path, name: str, split_mb: int) -> None:
    """Write `file`'s model into `folder`, in files of at most `split_mb` MB of tensors each.

    One that does not reach that stays whole, under its name; a larger tensor has a file of its own.
    """
    reader = gguf.GGUFReader(file)
    arch = str(reader.fields[gguf.Keys.General.ARCHITECTURE].contents())
    writer = gguf.GGUFWriter(folder / name, arch, split_max_size=split_mb * MB)
    try:
        for field in reader.fields.values():
            if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
                continue  # what the header says, and what the writer has
            kind = field.types[0]
            inner = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
        for tensor in reader.tensors:
            data = tensor.data
            writer.add_tensor_info(
                tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in reader.tensors:
            writer.write_tensor_data(tensor.data)
    finally:
        writer.close()
