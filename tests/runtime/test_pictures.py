from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from edgecompile.runtime import pictures
from edgecompile.runtime.errors import BadInputError, MissingLibraryError
from edgecompile.runtime.pictures import PictureInput

# height, width: square, landscape, portrait, extreme, smaller than any model's input, larger
SIZES = [(64, 64), (41, 150), (233, 57), (7, 90), (1, 1), (2, 3), (500, 701)]


def picture(height: int = 31, width: int = 47, seed: int = 0) -> Image.Image:
    """A gradient with noise on it: both smooth and sharp edges to resize."""
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 5, columns * 3, rows + columns], axis=-1) % 200
    noise = np.random.default_rng(seed).integers(0, 56, (height, width, 3))
    return Image.fromarray((smooth + noise).astype(np.uint8))


def section(**changes: Any) -> dict[str, Any]:
    """What a CLIP model of 32 pixels says."""
    return {
        "height": 32, "width": 32, "resize": "shortest_edge", "shortest_edge": 40,
        "resample": "bicubic", "crop": "floor", "rescale": 1 / 255,
        "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "channels": "RGB",
        "layout": "NCHW", **changes,
    }  # fmt: skip


def wanted(**changes: Any) -> PictureInput:
    return PictureInput.from_manifest(section(**changes))


EXACT = wanted(resize="exact", resize_height=32, resize_width=32, crop="none", shortest_edge=None)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", pictures.FILTERS)
def test_a_cropped_picture_is_bit_for_bit_that_of_transformers(
    size: tuple[int, int], name: str
) -> None:
    found = wanted(resample=name)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32},
        resample=Image.Resampling[name.upper()], image_mean=found.mean, image_std=found.std,
    )  # fmt: skip
    expected = processor([picture(*size)], return_tensors="np")["pixel_values"]
    assert np.array_equal(found.prepare([picture(*size)]), expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_resized_to_both_sides_is_that_of_transformers(size: tuple[int, int]) -> None:
    found = wanted(
        height=30, width=45, resize="exact", resize_height=30, resize_width=45, crop="none",
        resample="bilinear", mean=[0.5] * 3, std=[0.5] * 3,
    )  # fmt: skip
    processor = ViTImageProcessorPil(size={"height": 30, "width": 45})
    expected = processor([picture(*size)], return_tensors="np")["pixel_values"]
    assert np.array_equal(found.prepare([picture(*size)]), expected)


@pytest.mark.parametrize("size", SIZES)
def test_between_a_shortest_and_a_longest_edge_is_transformers_rule(size: tuple[int, int]) -> None:
    found = wanted(longest_edge=60)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 40, "longest_edge": 60}, crop_size={"height": 32, "width": 32},
        image_mean=found.mean, image_std=found.std,
    )  # fmt: skip
    expected = processor([picture(*size)], return_tensors="np")["pixel_values"]
    assert np.array_equal(found.prepare([picture(*size)]), expected)


@pytest.mark.parametrize("size", SIZES)
def test_blue_comes_first_for_mobilevit_and_small_pictures_are_padded(
    size: tuple[int, int]
) -> None:  # fmt: skip
    found = wanted(
        height=51, width=50, shortest_edge=40, channels="BGR", mean=[0] * 3, std=[1] * 3
    )
    processor = MobileViTImageProcessorPil(
        size={"shortest_edge": 40}, crop_size={"height": 51, "width": 50}
    )
    expected = processor([picture(*size)], return_tensors="np")["pixel_values"]
    assert np.array_equal(found.prepare([picture(*size)]), expected)


@pytest.mark.parametrize(("spare", "start"), [(0, 0), (1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_torchvisions_crop_begins_at_the_even_number(spare: int, start: int) -> None:
    found = wanted(resize="none", shortest_edge=None, crop="even", rescale=1.0,
                   mean=[0] * 3, std=[1] * 3)  # fmt: skip
    values = np.asarray(picture(32, 32 + spare))
    expected = np.moveaxis(values[:, start : start + 32], -1, 0)
    assert np.array_equal(found.prepare([values])[0], expected)


def test_paths_bytes_pil_pictures_and_arrays_give_the_same(tmp_path: Path) -> None:
    image = picture()
    image.save(tmp_path / "x.png")
    same = [str(tmp_path / "x.png"), tmp_path / "x.png", (tmp_path / "x.png").read_bytes(), image,
            np.asarray(image)]  # fmt: skip
    found = EXACT.prepare(same)
    assert found.shape == (5, 3, 32, 32)
    assert found.dtype == np.float32
    assert all(np.array_equal(one, found[0]) for one in found)


def test_no_pictures_are_an_empty_batch() -> None:
    assert EXACT.prepare([]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("L", "x.png"), ("LA", "x.png"), ("1", "x.png"), ("P", "x.png"), ("RGBA", "x.png"),
        ("RGBA", "x.webp"), ("CMYK", "x.jpg"), ("L", "x.jpg"), ("RGB", "x.bmp"), ("P", "x.gif"),
        ("RGB", "x.ppm"), ("F", "x.tiff"), ("I;16", "x.png"), ("I;16", "x.tiff"),
    ],
)  # fmt: skip
def test_every_kind_of_picture_becomes_rgb_as_transformers_loads_it(
    mode: str, name: str, tmp_path: Path
) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.arange(31 * 47, dtype=np.uint16).reshape(31, 47) * 40)
    else:
        image = picture().convert(mode)
    if mode == "RGBA":
        image.putalpha(picture(seed=2).convert("L"))
    image.save(tmp_path / name)
    with Image.open(tmp_path / name) as saved:
        assert saved.mode == mode
        expected = EXACT.prepare([load_image(saved)])
    assert np.array_equal(EXACT.prepare([tmp_path / name]), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(tmp_path / "x.jpg", exif=exif)
    expected = EXACT.prepare([load_image(str(tmp_path / "x.jpg"))])
    assert np.array_equal(EXACT.prepare([tmp_path / "x.jpg"]), expected)
    with Image.open(tmp_path / "x.jpg") as opened:
        assert np.array_equal(EXACT.prepare([opened]), expected)


def test_pictures_of_a_model_that_does_not_resize_must_have_its_size() -> None:
    found = wanted(resize="none", shortest_edge=None, crop="none")
    assert found.prepare([picture(32, 32)]).shape == (1, 3, 32, 32)
    with pytest.raises(BadInputError, match="47 x 31 pixels; expected 32 x 32"):
        found.prepare([picture(32, 32), picture(31, 47)])


def png(height: int, width: int) -> bytes:
    """A PNG file whose header says that size, small as it is."""
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("side", [8200, 12_000, 20_000])
def test_a_picture_that_would_unpack_to_gigabytes_is_refused(side: int) -> None:
    raw = png(side, side)
    assert len(raw) < 100_000
    with pytest.raises(BadInputError, match=r"picture 0: .*pixels"):
        EXACT.prepare([raw])


def test_a_strip_that_resizing_would_blow_up_is_refused() -> None:
    with pytest.raises(BadInputError, match="to be resized to 80000000 x 40"):
        wanted().prepare([png(1, 2_000_000)])


@pytest.mark.parametrize(
    "raw",
    [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", png(9, 9)[:-30]],
)
def test_what_is_no_whole_picture_is_refused(raw: bytes) -> None:
    with pytest.raises(BadInputError, match="a picture"):
        EXACT.prepare([raw])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"gone\.png"):
        EXACT.prepare([tmp_path / "gone.png"])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)  # fmt: skip
def test_arrays_of_another_kind_are_refused(array: Any) -> None:
    with pytest.raises(BadInputError, match=r"uint8 \[height, width, 3\]"):
        EXACT.prepare([array])


@given(st.binary(max_size=40), st.integers(0, 200))
def test_a_damaged_picture_is_read_or_refused(noise: bytes, place: int) -> None:
    stream = io.BytesIO()
    picture(5, 6).save(stream, "PNG")
    raw = stream.getvalue()
    with contextlib.suppress(BadInputError):
        EXACT.prepare([raw[:place] + noise + raw[place + len(noise) :]])


def test_without_pillow_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingLibraryError, match="pip install Pillow"):
        EXACT.prepare([b""])


def test_importing_the_module_does_not_import_pillow() -> None:
    code = "import edgecompile.runtime.pictures, sys; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("found", [wanted(), EXACT, wanted(longest_edge=60, crop="even")])
def test_the_manifest_holds_all_of_it(found: PictureInput) -> None:
    assert PictureInput.from_manifest(found.as_manifest()) == found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"height": 0}, "height: 0"),
        ({"height": True}, "height: True"),
        ({"width": 1 << 20}, "width: 1048576"),
        ({"resize": "stretch"}, "resize: 'stretch'"),
        ({"resize": "exact"}, "resize_height and resize_width beside it"),
        ({"shortest_edge": None}, "shortest_edge beside it"),
        ({"shortest_edge": 1 << 20}, "shortest_edge: 1048576"),
        ({"longest_edge": 8}, "longest_edge: 8"),
        ({"crop": "none"}, "any length"),
        ({"resize": "exact", "resize_height": 9, "resize_width": 9, "crop": "none"}, "height"),
        ({"resample": 3}, "resample: 3"),
        ({"rescale": float("nan")}, "rescale: nan"),
        ({"rescale": 10**400}, "rescale: 1000"),
        ({"mean": [0.5, 0.5]}, "3 numbers"),
        ({"std": [0.5, 0.5, 0]}, "std"),
        ({"std": [0.5, 0.5, float("inf")]}, "std"),
        ({"mean": ["a", 0, 0]}, "mean"),
        ({"channels": "RGBA"}, "channels: 'RGBA'"),
        ({"layout": "NHWC"}, "layout: 'NHWC'"),
        ({"pad": True}, "unknown key 'pad'"),
    ],
)
def test_a_wrong_section_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        wanted(**changes)
    assert said in str(caught.value)


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@given(st.dictionaries(st.sampled_from(pictures.KEYS), ANY | st.lists(ANY, max_size=4)))
def test_any_section_is_read_or_refused(changes: dict[str, Any]) -> None:
    with contextlib.suppress(BadInputError):
        found = wanted(**changes)
        assert PictureInput.from_manifest(found.as_manifest()) == found


@given(ANY | st.lists(ANY))
def test_what_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(BadInputError, match="an object"):
        PictureInput.from_manifest(data)
