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
    kept = [field for field in reader.fields.values() if not field.name.startswith("GGUF.")]
    arch = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(folder / name, arch, split_max_size=split_mb * MB)
    try:
        for field in kept:
            kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
        for tensor in reader.tensors:
            shape, size = tensor.shape.tolist()[::-1], int(tensor.n_bytes)
            writer.add_tensor_info(
                tensor.name, shape, tensor.data.dtype, size, raw_dtype=tensor.tensor_type
            ) if tensor.data.dtype != "uint8" else writer.add_tensor_info(
                tensor.name, tensor.data.shape, tensor.data.dtype, size, tensor.tensor_type
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in reader.tensors:
            writer.write_tensor_data(tensor.data)
    finally:
        writer.close()
