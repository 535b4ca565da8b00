"""Pictures as the source's own processor prepares them, with Pillow and numpy alone.

The steps are those of transformers' processors that use Pillow and of timm's evaluation transform:
RGB, resize, centre crop, rescale, normalise; the result equals theirs bit for bit. transformers'
processors that use torchvision (its default where that is installed) resize 8-bit values too, also
antialiased, with other arithmetic: of 26 photographs 0.06 to 0.5 % of the values differed, by at
most two steps of 255, and more where tiny ones were enlarged (20 steps) or padded by an odd number.

A file or bytes become RGB as `transformers.image_utils.load_image` makes them, on which its
pipelines rest: turned upright by its EXIF orientation, then Pillow's `convert("RGB")`, which drops
transparency; a PIL image likewise. Handing transformers' processor a PIL image with transparency
differs: where it has `do_convert_rgb`, it lays the picture on white, and it never turns it.
"""
from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import BadInputError, MissingLibraryError
from .sections import Section

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE_LIMIT = 8192  # pixels of a side that a model may take or a picture be resized to
PIXEL_LIMIT = 1 << 26  # of a picture, before and after resizing; Pillow warns beyond 89 million
FILE_LIMIT = 1 << 28  # bytes
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # as Pillow calls them
RESIZES = ("none", "exact", "shortest_edge")
# Where the crop begins when the margins differ by a pixel: transformers rounds down, torchvision
# (so timm) to the even number.
CROPS = ("none", "floor", "even")
# Not all that Pillow opens: some of its formats run other programs, and few are pictures here.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
SIDES = ("resize_height", "resize_width", "shortest_edge", "longest_edge")
KEYS = (
    "height", "width", "resize", *SIDES,
    "resample", "crop", "rescale", "mean", "std", "channels", "layout",
)  # fmt: skip

Picture: TypeAlias = "str | Path | bytes | Image | NDArray[np.uint8]"


@dataclass(frozen=True)
class PictureInput:
    """How a picture becomes one float32 [3, height, width] array, sizes in pixels.

    A value v becomes (v * rescale - mean) / std, in the order of `channels`. `resize` is "exact"
    (to `resize_height` and `resize_width`), "shortest_edge" (the other side at most `longest_edge`,
    unless that is 0) or "none"; `crop` is the rule that rounds where the centre crop begins.
    """

    height: int
    width: int
    resize: str
    resize_height: int = 0
    resize_width: int = 0
    shortest_edge: int = 0
    longest_edge: int = 0
    resample: str = "bilinear"
    crop: str = "none"
    rescale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: str = "RGB"
    layout: str = "NCHW"

    @classmethod
    def from_manifest(cls, data: object, where: str = "manifest.json: pictures") -> PictureInput:
        """Check an untrusted section; BadInputError (exit 5) says what is wrong where."""
        section = Section(data, KEYS, where)
        sides = {
            key: section.integer_or_zero(key, SIDE_LIMIT)
            for key in SIDES
        }
        found = cls(
            section.integer("height", 1, SIDE_LIMIT),
            section.integer("width", 1, SIDE_LIMIT),
            section.choice("resize", RESIZES),
            **sides,
            resample=section.choice("resample", FILTERS),
            crop=section.choice("crop", CROPS),
            rescale=section.number("rescale", 1e-9, 1e9),
            mean=section.numbers("mean", 3, -1e9, 1e9),
            std=section.numbers("std", 3, 1e-9, 1e9),
            channels=section.choice("channels", ("RGB", "BGR")),
            layout=section.choice("layout", ("NCHW",)),
        )
        _check_sizes(found, section)
        return found

    def as_manifest(self) -> dict[str, Any]:
        """The section that `from_manifest` reads; sides that are not set are left out."""
        values = {key: getattr(self, key) for key in KEYS}
        found = {key: value for key, value in values.items() if value or key not in SIDES}
        return {**found, "mean": list(self.mean), "std": list(self.std)}

    def prepare(self, pictures: Iterable[Picture]) -> NDArray[np.float32]:
        """Paths, bytes, PIL images or uint8 [height, width, 3] to float32 [n, 3, height, width]."""
        prepared = [self._prepare(picture, place) for place, picture in enumerate(pictures)]
        if not prepared:
            return np.zeros((0, 3, self.height, self.width), np.float32)
        return np.stack(prepared)

    def _prepare(self, picture: Picture, place: int) -> NDArray[np.float32]:
        where = str(picture) if isinstance(picture, str | Path) else f"picture {place}"
        values = np.asarray(self._resized(_rgb(picture, where), where))
        if self.crop != "none":
            values = _centre(values, self.height, self.width, self.crop)
        if values.shape != (self.height, self.width, 3):
            found = f"{values.shape[1]} x {values.shape[0]} pixels"
            raise BadInputError(where, found, f"{self.width} x {self.height}: nothing is resized")
        return self._normalised(values)

    def _resized(self, image: Image, where: str) -> Image:
        height, width = self._size_of_resized(image.height, image.width)
        if height * width > PIXEL_LIMIT:
            found = f"{image.width} x {image.height} pixels, to be resized to {width} x {height}"
            raise BadInputError(where, found, f"at most {PIXEL_LIMIT} then", "crop the picture")
        if self.resize == "none":
            return image
        return image.resize((width, height), _filter(self.resample))

    def _size_of_resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing."""
        if self.resize == "exact":
            return self.resize_height, self.resize_width
        if self.resize == "none":
            return height, width
        if self.longest_edge:
            return _between_edges(height, width, self.shortest_edge, self.longest_edge)
        return _shortest_edge(height, width, self.shortest_edge)

    def _normalised(self, values: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [height, width, 3] to float32 [3, height, width], by a table of all 256 values."""
        table = _table(self.rescale, self.mean, self.std)
        if self.channels == "BGR":
            values = values[..., ::-1]
        return np.stack([table[channel][values[..., channel]] for channel in range(3)])


def _check_sizes(picture: PictureInput, section: Section) -> None:
    exact = (picture.resize_height, picture.resize_width)
    if picture.resize == "exact" and 0 in exact:
        section.bad("resize", "resize_height and resize_width beside it")
    if picture.resize == "shortest_edge" and not picture.shortest_edge:
        section.bad("resize", "shortest_edge beside it")
    if 0 < picture.longest_edge < picture.shortest_edge:
        section.bad("longest_edge", "at least shortest_edge")
    if picture.crop != "none" or picture.resize == "none":
        return
    if picture.resize == "shortest_edge":
        section.bad("crop", "a crop: the longer side has any length after resizing")
    if exact != (picture.height, picture.width):
        section.bad("resize_height", "height and width of the model's input, without a crop")


def _shortest_edge(height: int, width: int, edge: int) -> tuple[int, int]:
    """The other side is rounded down (torchvision's rule, which transformers follows)."""
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def _between_edges(height: int, width: int, edge: int, longest: int) -> tuple[int, int]:
    """The shortest side becomes `edge`, or less where the other would be beyond `longest`."""
    short, long = min(height, width), max(height, width)
    exact = float(edge)
    if long / short * edge > longest:
        exact = longest * short / long
        edge = max(round(exact), 1)
    if short == edge:
        return height, width
    other = max(int(exact * long / short), 1)
    return (other, edge) if width < height else (edge, other)


def _centre(values: NDArray[np.uint8], height: int, width: int, rule: str) -> NDArray[np.uint8]:
    """The middle of [height, width, 3]; what it lacks is black."""
    rows, found_rows = _span(values.shape[0], height, rule)
    columns, found_columns = _span(values.shape[1], width, rule)
    cropped = np.zeros((height, width, 3), np.uint8)
    cropped[rows, columns] = values[found_rows, found_columns]
    return cropped


def _span(found: int, wanted: int, rule: str) -> tuple[slice, slice]:
    """Which part of the `wanted` pixels to fill from which part of those `found`."""
    if found < wanted:
        lack = wanted - found
        start = math.ceil(lack / 2) if rule == "floor" else lack // 2
        return slice(start, start + found), slice(0, found)
    spare = found - wanted
    start = spare // 2 if rule == "floor" else round(spare / 2)
    return slice(0, wanted), slice(start, start + wanted)


@cache
def _table(
    rescale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.float32]:  # fmt: skip
    """float32 [3, 256]: every 8-bit value as transformers computes it, float64 only to rescale."""
    scaled = (np.arange(256, dtype=np.float64) * rescale).astype(np.float32)
    centre, spread = (np.array(numbers, np.float32)[:, None] for numbers in (mean, std))
    return (scaled[None] - centre) / spread


def _rgb(picture: Picture, where: str) -> Image:
    """The picture upright and with three channels of 8 bits; Pillow is imported here."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        way_out = "pip install Pillow"
        raise MissingLibraryError("PIL", "not installed", way_out=way_out) from error
    if isinstance(picture, np.ndarray):
        return Image.fromarray(_checked_array(picture, where))
    if isinstance(picture, Image.Image):
        opened = picture
    else:
        opened = _decoded(lambda: _open(picture, where), where)
    if opened.width * opened.height > PIXEL_LIMIT or 0 in opened.size:
        raise BadInputError(
            where, f"{opened.width} x {opened.height} pixels", f"1 to {PIXEL_LIMIT}",
            "make the picture smaller",
        )  # fmt: skip
    return _decoded(lambda: ImageOps.exif_transpose(opened).convert("RGB"), where)


def _decoded(read: Callable[[], Image], where: str) -> Image:
    try:
        return read()
    except (BadInputError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders let through whatever a damaged file provokes
        text = f"{type(error).__name__}: {error}"
        raise BadInputError(where, text[:300], f"a picture ({', '.join(FORMATS)})") from error


def _open(picture: str | Path | bytes, where: str) -> Image:
    from PIL import Image

    if isinstance(picture, bytes):
        raw = picture
    else:
        path = Path(picture)
        if path.stat().st_size > FILE_LIMIT:
            raise BadInputError(where, f"{path.stat().st_size} bytes", f"at most {FILE_LIMIT}")
        raw = path.read_bytes()  # the file is closed before its picture is decoded
    Image.init()
    return Image.open(io.BytesIO(raw), formats=[name for name in FORMATS if name in Image.OPEN])


def _checked_array(picture: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise BadInputError(
            where, f"an array of {picture.dtype} {list(picture.shape)}", "uint8 [height, width, 3]"
        )
    if picture.size > 3 * PIXEL_LIMIT:
        raise BadInputError(where, f"{picture.size // 3} pixels", f"1 to {PIXEL_LIMIT}")
    return np.ascontiguousarray(picture)


def _filter(name: str) -> int:
    from PIL.Image import Resampling

    return int(Resampling[name.upper()])
