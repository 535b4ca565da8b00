"""Pictures for calibration and checks: the user's folder, or those that scikit-image ships."""
from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgecompile.errors import BadInputError, MissingLibraryError
from edgecompile.text.parts import Corpus, Document, Shot, split

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
LIBRARY, FOLDER = "skimage", "data"
CROPS = 64  # of each of a library's pictures: a handful of files, hundreds of samples
SMALLEST = 0.3  # of a crop's sides to the picture's


def default_pictures() -> Corpus:
    """Seeded crops of the pictures that scikit-image ships.

    All crops of a file are in one part; the same files give the same digests.
    """
    spec = importlib.util.find_spec(LIBRARY)
    if spec is None or spec.origin is None:
        raise MissingLibraryError(
            "default pictures", "scikit-image is not installed", "its pictures",
            "pip install scikit-image, or name a folder of your own with --data",
        )  # fmt: skip
    root = Path(spec.origin).parent / FOLDER
    files = [f for f in sorted(root.glob("*")) if f.suffix.lower() in ENDINGS and _opens(f)]
    pairs = [(f.name, _document(f, crop)) for f in files for crop in range(1, CROPS)]
    pairs.sort(key=lambda pair: hashlib.sha256(pair[1].text.encode()).digest())
    return split("scikit-image", pairs)


def read_pictures(folder: Path) -> Corpus:
    """A folder of pictures; a subfolder's name is the label of what is in it.

    Pictures are split by a hash of their bytes, so equal ones never stand in two parts.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)
    if not files:
        raise BadInputError(str(folder), "no pictures in it", f"files with {' '.join(ENDINGS)}")
    labelled = all(file.parent != folder for file in files)
    pairs = [_of_folder(file, file.parent.name if labelled else None) for file in files]
    corpus = split(folder.name, pairs)
    if empty := [part for part, found in corpus.parts.items() if not found]:
        raise BadInputError(
            str(folder), f"{len(files)} pictures leave the part {empty[0]} empty",
            "enough for three parts; about 30 always are",
        )  # fmt: skip
    return corpus


def open_picture(document: Document) -> Image:
    """The document's picture, cropped where the document says so."""
    from PIL import Image, UnidentifiedImageError

    shot = document.picture
    if shot is None:
        raise BadInputError("pictures", "a text", "a picture", "name a folder with --data")
    try:
        with Image.open(shot.file) as found:
            whole = found.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadInputError(str(shot.file), str(error), "a picture") from error
    return whole.crop(_crop(whole.size, shot.crop)) if shot.crop else whole


def _crop(size: tuple[int, int], number: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a seeded crop with the picture's own proportions."""
    rng = np.random.default_rng(number)
    share = rng.uniform(SMALLEST, 1.0)
    width, height = (max(1, round(side * share)) for side in size)
    left, top = (
        int(rng.integers(0, whole - part + 1))
        for whole, part in zip(size, (width, height), strict=True)
    )
    return left, top, left + width, top + height


def _opens(file: Path) -> bool:
    """Whether it is a picture of some size; a library also ships films and tiny patterns."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as found:
            return min(found.size) >= 128
    except (OSError, UnidentifiedImageError):
        return False


def _document(file: Path, crop: int) -> Document:
    return Document(f"{digest_of(file)} {crop}", None, Shot(file, crop))


def _of_folder(file: Path, label: str | None) -> tuple[str, Document]:
    digest = digest_of(file)
    return digest, Document(digest, label, Shot(file))


@functools.cache
def digest_of(file: Path) -> str:
    """SHA-256 of a picture's file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
