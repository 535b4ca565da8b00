"""A GGUF model in several files: llama.cpp opens what we write, and we read what it may bring."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

from edgecompile import bundle, sources
from edgecompile.backends.gguf import FILE, Gguf
from edgecompile.backends.gguf_parts import first_file, split
from edgecompile.errors import BadInputError, UsageError
from edgecompile.model import Model
from edgecompile.sources.gguf_file import read_gguf
from tests import tiny
from tests.backends.codes import rounded

MB_OF_A_LAYER = 4


def quiet(what: str, step: int, steps: int) -> None:
    pass


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A Llama of two layers of 3.9 MB of codes each, and a vocabulary."""
    folder = tmp_path_factory.mktemp("source")
    tiny.llama(folder, hidden_size=512, intermediate_size=1984, num_key_value_heads=4)
    model = sources.load(sources.resolve(str(folder), task="text-generation"), quiet)
    return rounded(model, tmp_path_factory.mktemp("codes"), 8)


@pytest.fixture(scope="module")
def whole(source: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    Gguf().export(source, folder, quiet)
    return folder


@pytest.fixture(scope="module")
def parts(source: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in files of at most 4 MB of tensors."""
    folder = tmp_path_factory.mktemp("parts")
    export = Gguf(split_mb=MB_OF_A_LAYER).export(source, folder, quiet)
    assert export.file == "model-00001-of-00003.gguf"
    return folder


def answers(file: Path) -> Any:
    engine = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, verbose=False, n_threads=2)
    engine.eval([0, *range(5, 60, 7)])
    found = np.array(engine.scores[: engine.n_tokens])
    engine.close()
    return found


def test_the_parts_have_llama_cpps_names_and_keys(parts: Path) -> None:
    names = sorted(file.name for file in parts.iterdir())
    assert names == [f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    total = 0
    for number, name in enumerate(names):
        reader = gguf.GGUFReader(parts / name)
        fields = reader.fields
        assert fields["split.no"].contents() == number
        assert fields["split.count"].contents() == 3
        assert fields["split.no"].types == [gguf.GGUFValueType.UINT16]
        assert ("tokenizer.ggml.tokens" in fields) == (number == 0)
        total += len(reader.tensors)
        assert sum(tensor.n_bytes for tensor in reader.tensors) <= MB_OF_A_LAYER * 1e6
    assert fields["split.tensors.count"].contents() == total


def test_llama_cpp_computes_with_the_parts_what_it_does_with_the_whole(
    whole: Path, parts: Path
) -> None:
    assert np.array_equal(answers(parts / "model-00001-of-00003.gguf"), answers(whole / FILE))


def test_the_parts_decode_to_the_codes_of_the_whole(
    source: Model, whole: Path, parts: Path, tmp_path: Path
) -> None:
    export = Gguf().export(source, tmp_path, quiet)
    manifest: Mapping[str, Any] = {
        "tensors": bundle.tensor_entries(source, export),
        "floats": bundle.float_entries(source, export),
    }
    one, other = (Gguf().decode(folder, manifest) for folder in (whole, parts))
    assert one.quantized.keys() == other.quantized.keys()
    for name in one.quantized:
        assert one.quantized[name].digest(name) == other.quantized[name].digest(name), name
    assert one.facts == other.facts
    assert len(list(Gguf().extents(parts))) == len(list(Gguf().extents(whole)))


def test_a_model_that_fits_one_file_has_one(source: Model, tmp_path: Path) -> None:
    export = Gguf(split_mb=1000).export(source, tmp_path, quiet)
    assert export.file == FILE
    assert "split.count" not in gguf.GGUFReader(tmp_path / FILE).fields


def test_the_same_model_gives_the_same_parts(source: Model, parts: Path, tmp_path: Path) -> None:
    Gguf(split_mb=MB_OF_A_LAYER).export(source, tmp_path, quiet)
    for file in parts.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_a_file_of_llama_cpps_own_types_is_split_too(source: Model, tmp_path: Path) -> None:
    floats = sources.load(
        sources.resolve(str(source.folder), task="text-generation"), quiet
    )
    for name, options in (("one", 0), ("parts", 2)):
        (tmp_path / name).mkdir()
        Gguf(types="Q4_K_M", split_mb=options).export(floats, tmp_path / name, quiet)
    first = first_file(tmp_path / "parts", FILE)
    assert first.name.startswith("model-00001-of-0000")
    one, other = read_gguf(tmp_path / "one" / FILE), read_gguf(first)
    assert [*one.tensors] == [*other.tensors]
    for name, tensor in one.tensors.items():
        assert np.array_equal(one.raw(tensor), other.raw(other.tensors[name])), name
    kept = {k: v for k, v in other.metadata.items() if not k.startswith("split.")}
    assert kept == one.metadata
    assert np.array_equal(answers(first), answers(tmp_path / "one" / FILE))


def test_a_split_source_is_read_by_its_first_file(
    whole: Path, parts: Path, tmp_path: Path
) -> None:
    for file in parts.iterdir():
        shutil.copy(file, tmp_path / file.name.replace("model", "tiny"))
    ref = sources.resolve(str(tmp_path / "tiny-00001-of-00003.gguf"))
    assert ref.name == "tiny"
    found = sources.load(ref, quiet)
    expected = sources.load(sources.resolve(str(whole / FILE)), quiet)
    assert found.weights.keys() == expected.weights.keys()
    for name in found.weights:
        assert np.array_equal(found.weights.float32(name), expected.weights.float32(name)), name
    assert Gguf().refusal(sources.describe(ref)) == ""


def test_a_changed_part_is_another_source(parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "p")
    first = tmp_path / "p" / "model-00001-of-00003.gguf"
    before = sources.load(sources.resolve(str(first)), quiet).source.digest
    last = tmp_path / "p" / "model-00003-of-00003.gguf"
    data = bytearray(last.read_bytes())
    data[-40] ^= 1
    last.write_bytes(data)
    assert sources.load(sources.resolve(str(first)), quiet).source.digest != before


def renamed(folder: Path) -> Path:
    (folder / "model-00001-of-00003.gguf").rename(folder / "model.gguf")
    return folder / "model.gguf"


def without(folder: Path) -> Path:
    (folder / "model-00002-of-00003.gguf").unlink()
    return folder / "model-00001-of-00003.gguf"


def exchanged(folder: Path) -> Path:
    one, other = folder / "model-00002-of-00003.gguf", folder / "model-00003-of-00003.gguf"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    return folder / "model-00001-of-00003.gguf"


def doubled(folder: Path) -> Path:
    """The first file's tensors under the second's number."""
    data = (folder / "model-00001-of-00003.gguf").read_bytes()
    key = b"split.no" + (2).to_bytes(4, "little")
    at = data.index(key) + len(key)
    second = data[:at] + (1).to_bytes(2, "little") + data[at + 2 :]
    (folder / "model-00002-of-00003.gguf").write_bytes(second)
    return folder / "model-00001-of-00003.gguf"


def fewer(folder: Path) -> Path:
    file = folder / "model-00001-of-00003.gguf"
    data = file.read_bytes()
    key = b"split.tensors.count" + (5).to_bytes(4, "little")
    at = data.index(key) + len(key)
    file.write_bytes(data[:at] + (77).to_bytes(4, "little") + data[at + 4 :])
    return file


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f / "model-00002-of-00003.gguf", "name the first file: model-00001-of-00003"),
        (renamed, "expected NAME-00001-of-00003.gguf"),
        (without, "model-00002-of-00003.gguf: not there"),
        (exchanged, "split.no = 2, split.count = 3; expected 1 and 3"),
        (doubled, "is in an earlier file too"),
        (fewer, "expected 77, as split.tensors.count says"),
    ],
)
def test_parts_that_do_not_belong_together_are_bad_input(
    parts: Path, tmp_path: Path, damage: Callable[[Path], Path], message: str
) -> None:
    shutil.copytree(parts, tmp_path / "p")
    with pytest.raises(BadInputError, match=message):
        read_gguf(damage(tmp_path / "p"))


def test_a_size_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="split_mb"):
        Gguf(split_mb=-1)


def test_two_models_in_a_folder_are_not_taken_for_one(tmp_path: Path) -> None:
    for count in (2, 3):
        (tmp_path / f"model-00001-of-0000{count}.gguf").touch()
    with pytest.raises(BadInputError, match="one model"):
        first_file(tmp_path, FILE)


def test_a_tensor_larger_than_a_file_has_one_of_its_own(whole: Path, tmp_path: Path) -> None:
    split(whole / FILE, tmp_path, FILE, 1)
    counts = [len(gguf.GGUFReader(file).tensors) for file in sorted(tmp_path.iterdir())]
    sizes = [tensor.n_bytes for tensor in gguf.GGUFReader(whole / FILE).tensors]
    assert max(sizes) > 1e6
    assert sum(counts) == len(sizes)
    assert min(counts) == 1
