from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import WhisperFeatureExtractor
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from edgecompile.errors import BadInputError, MissingLibraryError, UnsupportedError
from edgecompile.runtime.pictures import PictureInput
from edgecompile.sources.processors import audio_input, picture_input

CLASSES = ("ViT", "DeiT", "Bit", "CLIP", "Siglip", "Blip", "MobileNetV1", "MobileNetV2",
           "ConvNext", "EfficientNet", "MobileViT")  # fmt: skip
SIZES = [(64, 80), (301, 97), (9, 70), (1, 1), (260, 260)]


def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0).integers
    return [Image.fromarray(draw(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


def folder(path: Path, **files: Any) -> Path:
    """A folder with those JSON files, named without `.json`."""
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / f"{name}.json").write_text(json.dumps(data))
    return path


def read(path: Path, **found: Any) -> PictureInput | None:
    return picture_input(folder(path, preprocessor_config=found))


def assert_same(path: Path, kind: str, tolerance: float = 0.0, **changes: Any) -> None:
    """What the folder's settings make of pictures is what transformers' own class makes of them."""
    name = f"{kind}ImageProcessor"
    processor = get_image_processor_class_from_name(f"{name}Pil")(**changes)
    expected = np.stack(processor(pictures(), return_tensors="np")["pixel_values"])
    ours = read(path, image_processor_type=name, **changes)
    assert ours is not None
    found = ours.prepare(pictures())
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_named_alone_has_transformers_defaults(kind: str, tmp_path: Path) -> None:
    # EfficientNet divides twice, we once by the product: the last bit may differ
    assert_same(tmp_path, kind, 1e-6 if kind == "EfficientNet" else 0.0)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("ViT", {"size": 40}),
        ("ViT", {"size": {"height": 30, "width": 50}, "resample": 3}),
        ("ViT", {"size": {"height": 30, "width": 50}, "do_normalize": False}),
        ("ViT", {"do_rescale": False, "image_mean": [120, 110, 100], "image_std": [60, 61, 62]}),
        ("ViT", {"do_rescale": False, "do_normalize": False}),
        ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0}),
        ("ViT", {"do_center_crop": True, "crop_size": 47}),
        ("ViT", {"do_resize": False, "do_center_crop": True,
                 "crop_size": {"height": 41, "width": 20}}),
        ("CLIP", {"size": 50, "crop_size": 40}),
        ("CLIP", {"size": {"shortest_edge": 30}, "crop_size": {"height": 41, "width": 50}}),
        ("CLIP", {"size": {"shortest_edge": 30, "longest_edge": 44}, "crop_size": 31}),
        ("CLIP", {"use_square_size": True}),
        ("ConvNext", {"size": {"shortest_edge": 64}}),
        ("ConvNext", {"size": {"shortest_edge": 64}, "crop_pct": 0.95}),
        ("ConvNext", {"size": {"shortest_edge": 400}}),
        ("ConvNext", {"size": {"shortest_edge": 400}, "do_center_crop": True, "crop_size": 380}),
        ("MobileViT", {"do_flip_channel_order": False}),
        ("MobileViT", {"do_normalize": True}),
    ],
)  # fmt: skip
def test_settings_mean_what_they_mean_to_transformers(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    assert_same(tmp_path, kind, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"include_top": False},
        {"rescale_offset": True, "rescale_factor": 1 / 127.5},
        {"rescale_offset": True, "rescale_factor": 1 / 127.5, "do_normalize": False},
        {"do_center_crop": True},
    ],
)
def test_efficientnets_own_settings_are_folded_into_mean_and_std(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    assert_same(tmp_path, "EfficientNet", 2e-6, **changes)


@pytest.mark.parametrize(
    "name", ["CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPImageProcessor"]
)
def test_every_spelling_of_a_class_is_that_class(name: str, tmp_path: Path) -> None:
    found = read(tmp_path, image_processor_type=name)
    assert found is not None
    assert found.shortest_edge == 224


def test_an_older_files_feature_extractor_is_an_image_processor(tmp_path: Path) -> None:
    found = read(tmp_path, feature_extractor_type="CLIPFeatureExtractor", size=50, crop_size=40)
    assert found is not None
    assert (found.shortest_edge, found.height, found.width) == (50, 40, 40)
    assert audio_input(tmp_path) is None


def test_without_a_class_the_models_type_chooses_it(tmp_path: Path) -> None:
    config = {"model_type": "dinov2"}
    found = picture_input(folder(tmp_path, preprocessor_config={"size": 256}, config=config))
    assert found is not None
    assert found.as_manifest()["crop"] == "floor"  # of BitImageProcessor


def test_the_newer_file_goes_first(tmp_path: Path) -> None:
    newer = {"image_processor": {"image_processor_type": "ViTImageProcessor", "size": 32}}
    older = {"image_processor_type": "ViTImageProcessor", "size": 64}
    found = picture_input(folder(tmp_path, processor_config=newer, preprocessor_config=older))
    assert found is not None
    assert found.height == 32


def test_a_file_that_transformers_saved_is_read(tmp_path: Path) -> None:
    kind = get_image_processor_class_from_name("SiglipImageProcessorPil")
    kind(size={"height": 48, "width": 32}).save_pretrained(tmp_path)
    found = picture_input(tmp_path)
    assert found is not None
    assert (found.height, found.width, found.resample) == (48, 32, "bicubic")


def test_a_folder_without_settings_wants_neither_pictures_nor_sound(tmp_path: Path) -> None:
    path = folder(tmp_path, config={"model_type": "bert"})
    assert picture_input(path) is None
    assert audio_input(path) is None


TIMM = {
    "input_size": [3, 48, 48], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4],
}  # fmt: skip


def timm(path: Path, **changes: Any) -> PictureInput | None:
    return picture_input(folder(path, config={"pretrained_cfg": {**TIMM, **changes}}))


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_timms_settings_are_its_evaluation_transform(mode: str, tmp_path: Path) -> None:
    """Written out as torchvision's Resize, CenterCrop, ToTensor and Normalize compute it."""
    found = timm(tmp_path, crop_mode=mode)
    assert found is not None
    for image in pictures():
        width, height = image.size
        edge = 54  # floor(48 / 0.875)
        scaled = (edge, int(edge * height / width)) if width <= height else (
            int(edge * width / height), edge)  # fmt: skip
        resized = image.resize((edge, edge) if mode == "squash" else scaled, 3)
        left, top = (round((side - 48) / 2) for side in resized.size)
        cropped = np.asarray(resized.crop((left, top, left + 48, top + 48)), np.float32) / 255
        centred = cropped - np.array(TIMM["mean"], np.float32)
        expected = np.moveaxis(centred / np.array(TIMM["std"], np.float32), -1, 0)
        assert np.array_equal(found.prepare([image])[0], expected)


def test_timms_older_files_have_no_crop_mode(tmp_path: Path) -> None:
    without = {key: value for key, value in TIMM.items() if key != "crop_mode"}
    found = picture_input(folder(tmp_path, config={"pretrained_cfg": without}))
    assert found is not None
    assert found.resize == "shortest_edge"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop_mode": "border"}, "pretrained_cfg.crop_mode: 'border'"),
        ({"crop_pct": 1.5}, "pretrained_cfg.crop_pct: 1.5"),
        ({"crop_pct": 1e-320}, "pretrained_cfg.crop_pct"),
        ({"input_size": [1, 28, 28]}, "pretrained_cfg.input_size: [1, 28, 28]"),
        ({"input_size": [3, 28, 56]}, "pretrained_cfg.input_size: [3, 28, 56]"),
    ],
)
def test_a_timm_setting_without_a_counterpart_is_named(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        timm(tmp_path, **changes)
    assert said in str(caught.value)


def test_a_timm_file_that_leaves_out_the_mean_is_refused(tmp_path: Path) -> None:
    without = {key: value for key, value in TIMM.items() if key != "mean"}
    with pytest.raises(UnsupportedError, match=r"pretrained_cfg\.mean"):
        picture_input(folder(tmp_path, config={"pretrained_cfg": without}))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("ViT", {"do_pad": True, "pad_size": 64}, "do_pad: True"),
        ("ViT", {"data_format": "channels_last"}, "data_format: 'channels_last'"),
        ("ViT", {"size": {"longest_edge": 64}}, "size: {'longest_edge': 64}"),
        ("ViT", {"size": {"max_height": 64, "max_width": 64}}, "size: {'max_height'"),
        ("CLIP", {"do_center_crop": False}, "shortest_edge without do_center_crop"),
        ("ViT", {"do_resize": False}, "do_resize: False"),
        ("ConvNext", {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 32},
         "do_center_crop: True"),
        ("ConvNext", {"size": {"shortest_edge": 64}, "crop_pct": 0}, "crop_pct: 0"),
        ("ConvNext", {"size": {"height": 64, "width": 64}}, "size: {'height': 64"),
        ("Beit", {}, "image_processor_type: 'BeitImageProcessor'"),
        ("Qwen2VL", {}, "image_processor_type: 'Qwen2VLImageProcessor'"),
        ("Nobodys", {}, "image_processor_type: 'NobodysImageProcessor'"),
    ],
)  # fmt: skip
def test_a_setting_without_a_counterpart_is_named(
    kind: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(tmp_path, image_processor_type=f"{kind}ImageProcessor", **changes)
    assert caught.value.exit_code == 3
    assert said in str(caught.value)


def test_without_pillow_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingLibraryError, match="pip install Pillow"):
        read(tmp_path, image_processor_type="ViTImageProcessor")


WHISPER = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16_000}


def test_whispers_defaults_are_transformers(tmp_path: Path) -> None:
    found = audio_input(folder(tmp_path, preprocessor_config=WHISPER))
    assert found is not None
    assert found.as_manifest() == {
        "sampling_rate": 16_000, "n_fft": 400, "hop_length": 160, "n_mels": 80,
        "n_samples": 480_000, "padding_value": 0.0,
    }  # fmt: skip
    assert picture_input(tmp_path) is None


def test_a_file_that_whispers_extractor_saved_is_read(tmp_path: Path) -> None:
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=2)
    extractor.save_pretrained(tmp_path)
    found = audio_input(tmp_path)
    assert found is not None
    clip = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    expected = extractor(clip, sampling_rate=16_000, return_tensors="np")["input_features"]
    assert np.abs(found.prepare([clip]) - expected).max() < 1e-5


def test_whispers_settings_in_the_newer_file_are_read(tmp_path: Path) -> None:
    newer = {"feature_extractor": {**WHISPER, "feature_size": 96}}
    found = audio_input(folder(tmp_path, processor_config=newer))
    assert found is not None
    assert found.n_mels == 96


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dither": 0.01}, "dither: 0.01"),
        ({"padding_side": "left"}, "padding_side: 'left'"),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, "'Wav2Vec2FeatureExtractor'"),
        ({"feature_extractor_type": None}, "feature_extractor_type: None"),
    ],
)
def test_a_setting_of_sound_without_a_counterpart_is_named(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        audio_input(folder(tmp_path, preprocessor_config={**WHISPER, **changes}))
    assert said in str(caught.value)


def test_a_table_of_filters_too_large_for_memory_is_refused_unmade(tmp_path: Path) -> None:
    sizes = {"n_fft": 1 << 30, "feature_size": 1 << 30}
    with pytest.raises(BadInputError, match="n_fft: 1073741824"):
        audio_input(folder(tmp_path, preprocessor_config={**WHISPER, **sizes}))


@pytest.mark.parametrize("raw", [b"{", b"[1]", b"\xff", b"[" * 100_000, b'"x"'])
def test_a_file_that_is_no_json_object_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_bytes(raw)
    with pytest.raises(BadInputError, match=r"preprocessor_config\.json"):
        picture_input(tmp_path)
    with pytest.raises(BadInputError, match=r"preprocessor_config\.json"):
        audio_input(tmp_path)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["height", "width", "shortest_edge"]), inner),
    max_leaves=5,
)
PICTURE_KEYS = st.sampled_from(
    ["size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor", "do_resize",
     "do_center_crop", "crop_pct", "include_top", "do_pad"]
)
SOUND_KEYS = st.sampled_from(
    ["sampling_rate", "feature_size", "hop_length", "chunk_length", "n_fft", "padding_value",
     "dither", "padding_side"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(CLASSES), st.dictionaries(PICTURE_KEYS, ANY))
def test_any_settings_of_pictures_are_read_or_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    with contextlib.suppress(BadInputError, UnsupportedError):
        read(tmp_path, image_processor_type=f"{kind}ImageProcessor", **changes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(SOUND_KEYS, st.integers(-10, 10**6) | ANY))
def test_any_settings_of_sound_are_read_or_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with contextlib.suppress(BadInputError, UnsupportedError):
        audio_input(folder(tmp_path, preprocessor_config={**WHISPER, **changes}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(TIMM)), ANY))
def test_any_settings_of_timm_are_read_or_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with contextlib.suppress(BadInputError, UnsupportedError):
        timm(tmp_path, **changes)
