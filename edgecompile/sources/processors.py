"""What a source's own processor does with pictures and sound, as the runtime's settings.

transformers' processor class itself reads the folder's settings, so that what they leave out is
that class's default. A class or setting whose effect the runtime does not have is refused by name.
"""
from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from edgecompile.errors import BadInputError, MissingLibraryError, UnsupportedError
from edgecompile.modules import without_torchao
from edgecompile.runtime.audio import FFT_LIMIT, MELS_LIMIT, AudioInput
from edgecompile.runtime.pictures import PictureInput

Settings = dict[str, Any]

PREPROCESSOR, PROCESSOR, CONFIG = (
    "preprocessor_config.json", "processor_config.json", "config.json",
)  # fmt: skip
SIZE_LIMIT = 16 << 20  # bytes of one of these files; Whisper's older ones hold a table of filters
# What changes no value of a picture: where and as what it is returned, and labels beside it.
IDLE = frozenset(
    {"device", "return_tensors", "disable_grouping", "input_data_format", "image_seq_length"}
    | {"do_convert_rgb", "default_to_square", "do_reduce_labels", "pad_size"}
)
READ = frozenset(
    {"do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale"}
    | {"rescale_factor", "do_normalize", "image_mean", "image_std"}
)
LEAST_PORTION = 0.01  # of a picture that is left by cropping
WARPED = 384  # ConvNext's shortest edge from which on a picture is squeezed, not cropped


def picture_input(folder: Path) -> PictureInput | None:
    """How the folder's model wants pictures: transformers' settings first, then timm's; or None."""
    settings, path = _settings(folder, "image_processor")
    config = _read(folder / CONFIG)
    if settings and "sampling_rate" not in settings:
        return _of_transformers(settings, config, path)
    if config.get("pretrained_cfg") is not None:
        return _of_timm(config["pretrained_cfg"], folder / CONFIG)
    return None


def source_processor(folder: Path) -> Any:
    """transformers' own processor of the folder's settings, to compare with; None without any."""
    settings, path = _settings(folder, "image_processor")
    if not settings or "sampling_rate" in settings:
        return None
    return _made(_class(settings, _read(folder / CONFIG), path), settings, path)


def audio_input(folder: Path) -> AudioInput | None:
    """How the folder's model wants sound, or None where its settings are not for sound."""
    settings, path = _settings(folder, "feature_extractor")
    if "sampling_rate" not in settings:
        return None
    name = settings.get("feature_extractor_type")
    if name != "WhisperFeatureExtractor":
        _unsupported(path, "feature_extractor_type", name, "WhisperFeatureExtractor")
    return _of_whisper(settings, path)


def source_front_end(folder: Path) -> Any:
    """transformers' own WhisperFeatureExtractor of the folder's settings, to compare with."""
    from transformers import WhisperFeatureExtractor

    settings, path = _settings(folder, "feature_extractor")
    return _made(WhisperFeatureExtractor, settings, path)


def _settings(folder: Path, key: str) -> tuple[Settings, Path]:
    """One processor's settings and their file: a part of the newer one, or all of the older."""
    nested = _read(folder / PROCESSOR).get(key)
    if nested is None:
        return _read(folder / PREPROCESSOR), folder / PREPROCESSOR
    return _object(nested, f"{folder / PROCESSOR}: {key}"), folder / PROCESSOR


def _of_whisper(settings: Settings, path: Path) -> AudioInput:
    from transformers import WhisperFeatureExtractor

    for key, limit in (("n_fft", FFT_LIMIT), ("feature_size", MELS_LIMIT)):
        size = settings.get(key, 1)  # the class makes its table of filters at once
        if type(size) is not int or not 1 <= size <= limit:
            raise BadInputError(f"{path}: {key}", f"{size!r:.200}", f"1 to {limit}")
    made = _made(WhisperFeatureExtractor, settings, path)
    for key, plain in (("dither", 0.0), ("padding_side", "right")):
        if getattr(made, key) != plain:
            _unsupported(path, key, getattr(made, key), repr(plain))
    section = {
        "sampling_rate": made.sampling_rate, "n_fft": made.n_fft, "hop_length": made.hop_length,
        "n_mels": made.feature_size, "n_samples": made.n_samples,
        "padding_value": made.padding_value,
    }  # fmt: skip
    return AudioInput.from_manifest(section, str(path))


def _of_transformers(settings: Settings, config: Settings, path: Path) -> PictureInput:
    try:
        import PIL  # noqa: F401 - transformers' classes need it
    except ImportError as error:
        way_out = "pip install Pillow"
        raise MissingLibraryError("PIL", "not installed", way_out=way_out) from error
    kind = _class(settings, config, path)
    made = _made(kind, settings, path)
    family = kind.__name__.removesuffix("Pil")
    extra, change = FAMILIES.get(family, (frozenset(), None))
    if change is None and _own_steps(kind):
        _unsupported(path, "image_processor_type", family, _known_families())
    for key in set(made.valid_kwargs.__annotations__) - READ - IDLE - extra:
        value = getattr(made, key, None)
        if value and (key, value) != ("data_format", "channels_first"):
            _unsupported(path, key, value, "none")
    try:
        section = _section(made, path)
        if change:
            change(section, made, path)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # transformers would meet a value of the wrong type only with a picture in its hands
        raise BadInputError(str(path), str(error)[:300], f"settings of a {family}") from error
    return _checked(section, path)


def _class(settings: Settings, config: Settings, path: Path) -> Any:
    """The processor class that uses Pillow: named in the file, or else by the model's type."""
    without_torchao()
    auto: Any = importlib.import_module("transformers.models.auto.image_processing_auto")
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if name is None:
        by_model = auto.IMAGE_PROCESSOR_MAPPING_NAMES
        name = by_model.get(str(config.get("model_type")), {}).get("pil")
    if not isinstance(name, str):
        _unsupported(path, "image_processor_type", name, _known_families())
    name = name.removesuffix("Fast").removesuffix("Pil")
    name = name.replace("FeatureExtractor", "ImageProcessor")  # as files of before 2023 call it
    kind = auto.get_image_processor_class_from_name(f"{name}Pil")
    if kind is None or not hasattr(kind, "valid_kwargs"):
        _unsupported(path, "image_processor_type", name, _known_families())
    return kind


def _own_steps(kind: Any) -> bool:
    """Whether the class computes anything otherwise than transformers' common PilBackend."""
    from transformers.image_processing_backends import PilBackend

    own = kind.__mro__[: kind.__mro__.index(PilBackend)] if PilBackend in kind.__mro__ else ()
    names = {name for part in own for name, value in vars(part).items() if callable(value)}
    steps = {name for name in names if hasattr(PilBackend, name)} - {"__init__", "valid_kwargs"}
    return not own or bool(steps)


def _made(kind: Any, settings: Settings, path: Path) -> Any:
    try:
        return kind(**settings)
    except Exception as error:  # its checks raise classes of several libraries
        found = f"{type(error).__name__}: {error}"
        raise BadInputError(str(path), found[:300], f"settings of a {kind.__name__}") from error


def _section(made: Any, path: Path) -> Settings:
    """The manifest's section of what all classes have in common."""
    from PIL.Image import Resampling

    section: Settings = {
        "resize": "none", "crop": "none", "resample": "bilinear",
        "rescale": made.rescale_factor if made.do_rescale else 1.0,
        "mean": _three(made.image_mean if made.do_normalize else 0.0),
        "std": _three(made.image_std if made.do_normalize else 1.0),
        "channels": "RGB", "layout": "NCHW",
    }  # fmt: skip
    if made.do_resize:
        if made.resample is not None:
            section["resample"] = Resampling(made.resample).name.lower()
        section |= _resize(made.size, path)
    if made.do_center_crop:
        section |= {"crop": "floor", "height": made.crop_size.height, "width": made.crop_size.width}
    return section


def _resize(size: Any, path: Path) -> Settings:
    """The rule of a transformers SizeDict."""
    sides = {key: value for key, value in dict(size).items() if value is not None}
    if set(sides) == {"height", "width"}:
        return {
            "resize": "exact", "resize_height": size.height, "resize_width": size.width,
            "height": size.height, "width": size.width,
        }  # fmt: skip
    if "shortest_edge" not in sides or set(sides) - {"shortest_edge", "longest_edge"}:
        _unsupported(path, "size", sides, "height and width, or shortest_edge")
    return {"resize": "shortest_edge", **sides}


def _three(value: Any) -> list[float]:
    return [value] * 3 if isinstance(value, int | float) else list(value)


def _checked(section: Settings, path: Path) -> PictureInput:
    """The section as the runtime reads it; a model's input must have one height and width."""
    if section["crop"] == "none" and section["resize"] == "shortest_edge":
        _unsupported(path, "size", "shortest_edge without do_center_crop", "one height and width")
    if "height" not in section:
        _unsupported(path, "do_resize", False, "do_resize or do_center_crop")
    return PictureInput.from_manifest(section, str(path))


def _convnext(section: Settings, made: Any, path: Path) -> None:
    """Below 384 pixels: resize to edge / crop_pct, crop to edge; from there on squeeze."""
    if not made.do_resize:
        return
    edge = section.pop("shortest_edge", None)
    if edge is None or "longest_edge" in section:
        _unsupported(path, "size", dict(made.size), "shortest_edge alone")
    if edge >= WARPED:
        section |= {"resize": "exact", "resize_height": edge, "resize_width": edge}
        if section["crop"] == "none":
            section |= {"height": edge, "width": edge}
        return
    if section["crop"] != "none":
        _unsupported(path, "do_center_crop", True, f"none beside crop_pct below {WARPED} pixels")
    if not LEAST_PORTION <= made.crop_pct <= 1:
        _unsupported(path, "crop_pct", made.crop_pct, f"{LEAST_PORTION} to 1")
    section |= {"shortest_edge": int(edge / made.crop_pct), "height": edge, "width": edge}
    section["crop"] = "floor"


def _efficientnet(section: Settings, made: Any, path: Path) -> None:
    """`rescale_offset` subtracts 1 after rescaling; `include_top` divides by std a second time."""
    mean, std = section["mean"], section["std"]
    if made.rescale_offset and made.do_rescale:
        section["mean"] = [value + 1.0 for value in mean]
    if made.include_top:
        second = _three(made.image_std)
        section["std"] = [one * other for one, other in zip(std, second, strict=True)]


def _mobilevit(section: Settings, made: Any, path: Path) -> None:
    """Blue comes first, and nothing is normalised, whatever `do_normalize` says."""
    section |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    section["channels"] = "BGR" if made.do_flip_channel_order else "RGB"


def _plain(section: Settings, made: Any, path: Path) -> None:
    """MobileNetV2 has steps of its own for labels alone."""


# Classes with steps of their own: the settings that only they have, and what those change.
FAMILIES: dict[str, tuple[frozenset[str], Callable[[Settings, Any, Path], None]]] = {
    "ConvNextImageProcessor": (frozenset({"crop_pct"}), _convnext),
    "EfficientNetImageProcessor": (frozenset({"rescale_offset", "include_top"}), _efficientnet),
    "MobileNetV2ImageProcessor": (frozenset(), _plain),
    "MobileViTImageProcessor": (frozenset({"do_flip_channel_order"}), _mobilevit),
}


def _known_families() -> str:
    return f"{', '.join(FAMILIES)} or a class with transformers' common steps (as ViT's or CLIP's)"


def _of_timm(found: object, path: Path) -> PictureInput:
    """timm's evaluation transform (`timm.data.transforms_factory`) of a `pretrained_cfg`."""
    found = _object(found, f"{path}: pretrained_cfg")
    for key in ("input_size", "interpolation", "crop_pct", "mean", "std"):
        if key not in found:  # timm's own defaults are not known here
            _unsupported(path, f"pretrained_cfg.{key}", None, "a value")
    return PictureInput.from_manifest(_timm_section(found, path), str(path))


def _timm_section(found: Settings, path: Path) -> Settings:
    size, portion = found["input_size"], found["crop_pct"]
    square = isinstance(size, list) and len(size) == 3 and size[0] == 3 and size[1] == size[2]
    if not square or type(size[1]) is not int:
        _unsupported(path, "pretrained_cfg.input_size", size, "[3, side, side]")
    if not isinstance(portion, int | float) or not LEAST_PORTION <= portion <= 1:
        _unsupported(path, "pretrained_cfg.crop_pct", portion, f"{LEAST_PORTION} to 1")
    scaled = math.floor(size[1] / portion)
    resizes = {
        "center": {"resize": "shortest_edge", "shortest_edge": scaled},
        "squash": {"resize": "exact", "resize_height": scaled, "resize_width": scaled},
    }
    mode = found.get("crop_mode", "center")
    if not isinstance(mode, str) or mode not in resizes:
        _unsupported(path, "pretrained_cfg.crop_mode", mode, " or ".join(resizes))
    return {
        **resizes[mode], "height": size[1], "width": size[1], "crop": "even",
        "resample": found["interpolation"], "rescale": 1 / 255,
        "mean": found["mean"], "std": found["std"], "channels": "RGB", "layout": "NCHW",
    }  # fmt: skip


def _read(path: Path) -> Settings:
    """The JSON object in a file; empty where there is none."""
    if not path.is_file():
        return {}
    if path.stat().st_size > SIZE_LIMIT:
        raise BadInputError(str(path), f"{path.stat().st_size} bytes", f"at most {SIZE_LIMIT}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(str(path), str(error) or "nested too deep", "UTF-8 JSON") from error
    return _object(data, str(path))


def _object(data: object, where: str) -> Settings:
    if not isinstance(data, dict):
        raise BadInputError(where, f"{data!r:.200}", "a JSON object")
    return data


def _unsupported(path: Path, key: str, found: object, expected: str) -> NoReturn:
    raise UnsupportedError(
        f"{path}: {key}", f"{found!r:.200}", expected,
        "wrap the model in a torch module and prepare its inputs yourself",
    )  # fmt: skip
