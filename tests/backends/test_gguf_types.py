"""llama.cpp's own types: chosen by overrides and importance, listed, and read back."""
from __future__ import annotations

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny
import torch

from edgecompile import bundle, codes, target, verify
from edgecompile.backends import gguf_types
from edgecompile.backends.gguf import Gguf
from edgecompile.calibration.batches import text_batches
from edgecompile.checks import sealed
from edgecompile.checks.limits import width_of
from edgecompile.config import make
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes.quantize_importance import QuantizeImportance
from edgecompile.reference import Reference
from edgecompile.sources.gguf_file import read_gguf
from edgecompile.sources.huggingface import describe
from edgecompile.text import default_corpus

DOWN = "model.layers.{}.mlp.down_proj.weight"
MEASURE = QuantizeImportance(texts=6, length=64)


def quiet(what: str, step: int, steps: int) -> None:
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Rows of 256 and 512, which K types need."""
    folder = tmp_path_factory.mktemp("tiny")
    return describe(tiny.llama(folder, hidden_size=256, intermediate_size=512), "tiny")


@pytest.fixture(scope="module")
def measured(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return MEASURE(model, tiny.work(tmp_path_factory.mktemp("work"))).model


def export(backend: Gguf, model: Model, folder: Path) -> dict[str, str]:
    """Source tensor -> type in the written file."""
    folder.mkdir(parents=True, exist_ok=True)
    written = backend.export(model, folder, quiet)
    return {name: row["dtype"] for name, row in written.own.items()}


def test_importance_is_the_mean_square_of_each_columns_input(
    model: Model, measured: Model
) -> None:
    body = Reference(model, "sdpa").body
    batches = text_batches(model, default_corpus().calibration, MEASURE.texts, MEASURE.length)
    inputs: list[torch.Tensor] = []
    layer = body.get_submodule("model.layers.1.mlp.down_proj")
    handle = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.inference_mode():
        for batch in batches:
            body(**batch.inputs)
    handle.remove()
    expected = torch.cat([x.reshape(-1, 512) for x in inputs]).square().mean(0).numpy()
    np.testing.assert_allclose(measured.importance[DOWN.format(1)], expected, rtol=1e-4)
    assert len(measured.importance) == 14
    assert not measured.quantized


def test_a_killed_measurement_goes_on_at_the_next_block(
    model: Model, measured: Model, tmp_path: Path
) -> None:
    work = tiny.work(tmp_path)
    MEASURE(model, work)
    for file in (tmp_path / codes.PART.format(1), tmp_path / codes.IMPORTANCE.format(1)):
        file.unlink()
    first = (tmp_path / codes.IMPORTANCE.format(0)).stat().st_mtime_ns
    again = MEASURE(model, work).model.importance
    assert (tmp_path / codes.IMPORTANCE.format(0)).stat().st_mtime_ns == first
    for name, values in measured.importance.items():
        np.testing.assert_array_equal(again[name], values)


def test_an_override_gives_its_tensors_that_type_and_the_rest_the_file_type(
    measured: Model, tmp_path: Path
) -> None:
    backend = Gguf(
        types="Q4_K_M", type_overrides={"*.down_proj.weight": "Q8_0", "*embed*": "Q5_K"}
    )
    found = export(backend, measured, tmp_path)
    assert {found[DOWN.format(layer)] for layer in (0, 1)} == {"Q8_0"}
    assert found["model.embed_tokens.weight"] == "Q5_K"
    assert found["model.layers.0.mlp.gate_proj.weight"] == "Q4_K"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf"]


def test_importance_changes_what_is_written_and_lowers_the_weighted_error(
    model: Model, measured: Model, tmp_path: Path
) -> None:
    name = "model.layers.0.mlp.gate_proj.weight"
    few = np.random.default_rng(0).random(256) < 0.1  # columns that matter, in every block
    spread = np.where(few, 100, 0.01).astype(np.float32)
    told = dataclasses.replace(measured, importance={**measured.importance, name: spread})
    errors = []
    for one, folder in ((model, "plain"), (told, "told")):
        export(Gguf(types="Q4_K_S"), one, tmp_path / folder)
        manifest = {"tensors": [], "floats": [{"name": n} for n in model.weights]}
        values = Gguf(types="Q4_K_S").decode(tmp_path / folder, manifest).floats[name]
        errors.append(float((spread * (values - model.weights.float32(name)) ** 2).sum()))
    assert errors[1] < 0.8 * errors[0]


def test_the_bytes_do_not_depend_on_threads_or_the_run(measured: Model, tmp_path: Path) -> None:
    Gguf().export(measured, tmp_path, quiet)
    wanted = gguf_types.Wanted("Q4_K_M", {}, {})
    for threads in (1, 3):
        gguf_types.quantize(tmp_path / "model.gguf", tmp_path / f"{threads}", wanted, threads)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()


def test_the_manifest_lists_types_and_the_sealed_check_finds_a_changed_byte(
    measured: Model, tmp_path: Path
) -> None:
    backend = Gguf(types="Q4_K_M")
    written = backend.export(measured, tmp_path, quiet)
    floats = bundle.float_entries(measured, written)
    manifest = {
        "tensors": [], "floats": floats, "passes": [], "unused": {},
        "weights_digest": bundle.weights_digest([]), "facts": {},
    }  # fmt: skip
    rows = {row.metric: row for row in sealed.rows(backend.decode(tmp_path, manifest), manifest,
                                                   measured, {})}  # fmt: skip
    assert rows["floats_differing"].value == 0
    assert 0.1 < rows["tensor_error"].value < 0.5
    assert width_of(row["dtype"] for row in floats if row["dtype"] != "float32") == "int4"
    tensor = read_gguf(tmp_path / "model.gguf").tensors["blk.1.ffn_up.weight"]
    with (tmp_path / "model.gguf").open("r+b") as file:
        file.seek(tensor.offset + 20)
        byte = file.read(1)[0]
        file.seek(tensor.offset + 20)
        file.write(bytes([byte ^ 0x10]))
    rows = {row.metric: row for row in sealed.rows(backend.decode(tmp_path, manifest), manifest,
                                                   measured, {})}  # fmt: skip
    assert rows["floats_differing"].detail == "model.layers.1.mlp.up_proj.weight"


def test_bundles_of_llama_cpps_types_are_compared_by_the_values_they_stand_for(
    model: Model, measured: Model, tmp_path: Path
) -> None:
    chosen = target.find("gguf-kquant")
    for name, one in (("plain", model), ("told", measured), ("again", measured)):
        (tmp_path / f"{name}-files").mkdir()
        written = Gguf(types="Q4_K_M").export(one, tmp_path / f"{name}-files", quiet)
        contents = bundle.Contents(one, chosen, "", written, ())
        (tmp_path / name).mkdir()
        bundle.assemble(contents, tmp_path / f"{name}-files", tmp_path / name)
    same = verify.compare(tmp_path / "told", tmp_path / "again")
    assert (same.tensors, same.differences) == (15, ())
    found = verify.compare(tmp_path / "plain", tmp_path / "told")
    assert "model.layers.0.mlp.gate_proj.weight: values of Q4_K differ" in found.differences
    assert found.digests[0] != found.digests[1]


def test_permuted_rows_break_the_bound_on_a_tensors_error(
    measured: Model, tmp_path: Path
) -> None:
    backend = Gguf(types="Q4_K_M")
    written = backend.export(measured, tmp_path, quiet)
    manifest = {"tensors": [], "floats": bundle.float_entries(measured, written), "passes": []}
    decoded = backend.decode(tmp_path, manifest)
    name = "model.layers.0.self_attn.q_proj.weight"
    moved = {name: decoded.floats[name][::-1]}
    wrong = dataclasses.replace(decoded, floats=moved)
    (row,) = sealed.own_rows(wrong, manifest, measured)
    assert (row.verdict, row.detail) == ("fail", name)


@pytest.mark.parametrize("types", sorted(gguf_types.FILE_TYPES))
def test_every_file_type_that_is_offered_can_be_written_and_read(
    types: str, measured: Model, tmp_path: Path
) -> None:
    found = export(Gguf(types=types), measured, tmp_path)
    assert len(found) == 15
    expected = gguf_types.FILE_TYPES[types].name
    assert expected in found.values()
    size = (tmp_path / "model.gguf").stat().st_size
    assert abs(Gguf(types=types).size(measured, {}) / size - 1) < 0.25


def test_an_unknown_type_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'Q4_K_M'"):
        make(Gguf, {"types": "Q4_KM"}, "target x")
    with pytest.raises(UsageError, match="'Q9_0' is no type"):
        make(Gguf, {"types": "Q4_K_M", "type_overrides": {"*": "Q9_0"}}, "target x")


def test_a_pattern_without_a_matrix_is_refused(model: Model) -> None:
    backend = Gguf(types="Q4_K_M", type_overrides={"*norm.weight": "Q8_0"})
    with pytest.raises(UsageError, match="matches no matrix"):
        backend.refusal(model)


def test_rows_that_split_a_block_are_refused_for_an_override(tmp_path: Path) -> None:
    narrow = describe(tiny.llama(tmp_path), "narrow")
    backend = Gguf(types="Q4_0", type_overrides={"*.up_proj.weight": "Q6_K"})
    assert "rows of 64, which Q6_K's blocks of 256 split" in backend.refusal(narrow)


def test_codes_of_our_grid_and_llama_cpps_types_exclude_each_other(
    model: Model, tmp_path: Path
) -> None:
    scheme, name = Scheme(8, 32), DOWN.format(0)
    on_grid = dataclasses.replace(
        model, quantized={name: quantize(model.weights.float32(name), scheme)}
    )
    with pytest.raises(UnsupportedError, match="our grid"):
        Gguf(types="Q4_K_M").export(on_grid, tmp_path, quiet)
    with pytest.raises(UnsupportedError, match=r"quantize\.method=importance"):
        Gguf(types="Q4_K_M").size(model, {name: scheme})


def test_float16_matrices_are_listed_as_the_file_has_them(model: Model, tmp_path: Path) -> None:
    backend = Gguf(float_type="f16")
    written = backend.export(model, tmp_path, quiet)
    manifest = {"tensors": [], "floats": bundle.float_entries(model, written)}
    rows = {row["name"]: row for row in manifest["floats"]}
    assert rows[DOWN.format(0)]["dtype"] == "float16"
    decoded = backend.decode(tmp_path, manifest)
    for name, row in rows.items():
        found = sealed.float_digest(name, decoded.floats[name], row["dtype"])
        assert found == row["sha256"], name


def test_the_file_type_in_the_header_is_llama_cpps(measured: Model, tmp_path: Path) -> None:
    export(Gguf(types="IQ4_XS"), measured, tmp_path)
    stored = read_gguf(tmp_path / "model.gguf").metadata["general.file_type"]
    assert stored == gguf.LlamaFileType.MOSTLY_IQ4_XS
