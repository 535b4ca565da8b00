"""Checkpoints of texts and pictures (CLIP): the whole config, and what they cannot lack."""
from __future__ import annotations

from dataclasses import replace

from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.model import Model
from edgecompile.structure import filled_in

CLIP = "clip"
LOGIT_SCALE, TEXT_PROJECTION = "logit_scale", "text_projection.weight"
NEEDED = (TEXT_PROJECTION, "visual_projection.weight", LOGIT_SCALE)


def described(model: Model) -> Model:
    """The model with the defaults that its config's two parts leave out.

    BadInputError for a checkpoint without projections, or one whose processor gives pictures of
    another size than the model takes.
    """
    if model.architecture != CLIP:
        raise UnsupportedError(
            model.source.reference, f"{model.task} with model_type {model.architecture!r}", CLIP,
            "wrap it in a torch module: package.module:function",
        )  # fmt: skip
    config = filled_in(model).to_dict()
    if lost := [name for name in NEEDED if name not in model.weights]:
        raise BadInputError(
            model.source.reference, f"no {lost[0]}", f"{', '.join(NEEDED)}",
            "a tower without its projection gives vectors that cannot be compared with the "
            "other's: save the whole CLIPModel",
        )  # fmt: skip
    _refuse_size(model, config["vision_config"]["image_size"])
    return replace(model, config=config)


def _refuse_size(model: Model, side: int) -> None:
    pictures = model.pictures
    if pictures is not None and [pictures.height, pictures.width] != [side, side]:
        raise BadInputError(
            model.source.reference, f"pictures are prepared as {pictures.height} x "
            f"{pictures.width}", f"{side} x {side}, vision_config.image_size",
            "mend size and crop_size in preprocessor_config.json",
        )  # fmt: skip
