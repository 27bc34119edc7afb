"""k, the number of image tokens, for pictures of some sizes."""

from typing import Any, NamedTuple

from PIL import Image

from service.checkpoints.input_processor import InputProcessor
from service.checkpoints.inspectors import Checkpoint
from service.checkpoints.report import Finding, ImageTokens, in_a_line

SIZES = ((336, 336), (672, 336), (1024, 768), (64, 64))
"""Width and height, pixels."""


class Counted(NamedTuple):
    """k of each size, and what is wrong with it."""

    sizes: list[ImageTokens]
    problems: list[Finding]
    not_judged: list[str]


def count_image_tokens(checkpoint: Checkpoint, inputs: InputProcessor) -> Counted:
    """Shows the processor blank pictures, and what it makes of them to the model."""
    counted = Counted([], [], [])
    if inputs.processor.image_processor is None:
        counted.not_judged.append("k: pictures are processed by code that transformers lacks.")
        return counted
    for width, height in SIZES:
        try:
            [ids], pictures = inputs.process_images([Image.new("RGB", (width, height))])
        except Exception as error:  # processors raise what they like
            counted.problems.append(_refused("processor", width, height, inputs, error))
            break
        tokens = ids.count(inputs.feature_token_id)
        counted.sizes.append(ImageTokens(width=width, height=height, tokens=tokens))
        if checkpoint.model is None or counted.not_judged:
            continue
        try:
            counted.sizes[-1].features = _features(checkpoint.model, pictures)
        except ValueError as error:
            counted.problems.append(_refused("model", width, height, inputs, error))
            break
        except Exception as error:  # what cannot be computed without weights
            counted.not_judged.append(
                "Whether the model makes as many features of a picture as its processor writes "
                f"image tokens: its code wants weights for that. {in_a_line(error)}"
            )
    counted.problems.extend(_mismatch(counted.sizes, inputs))
    return counted


def _refused(
    who: str, width: int, height: int, inputs: InputProcessor, error: Exception
) -> Finding:
    return Finding(
        code="picture_refused",
        message=f"The {who} fails on a picture of {width}x{height}: {in_a_line(error)}",
        remedy=_remedy(
            inputs,
            "Its processor_config.json may be of an old layout: older ones lack `patch_size`, "
            "`vision_feature_select_strategy` and `num_additional_image_tokens`.",
        ),
    )


def _remedy(inputs: InputProcessor, of_files: str) -> str:
    if inputs.processor_kwargs:
        return f"Correct --mm-processor-kwargs, now {dict(inputs.processor_kwargs)}."
    return of_files


def _features(model: Any, pictures: dict[str, Any]) -> int:
    """How many rows the model puts into a sequence for the picture."""
    import torch

    on_meta = {
        name: value.to("meta") if torch.is_floating_point(value) else value
        for name, value in pictures.items()
    }
    with torch.no_grad():
        found = model.get_image_features(**on_meta)
    rows = getattr(found, "pooler_output", found)
    return sum(row.shape[:-1].numel() for row in rows)


def _mismatch(sizes: list[ImageTokens], inputs: InputProcessor) -> list[Finding]:
    wrong = [size for size in sizes if size.features not in (None, size.tokens)]
    if not wrong:
        return []
    first = wrong[0]
    return [
        Finding(
            code="image_tokens_wrong",
            message=f"For a picture of {first.width}x{first.height} the processor writes "
            f"{first.tokens} image tokens, but the model makes {first.features} features of it.",
            remedy=_remedy(
                inputs,
                "Correct `num_additional_image_tokens` (of CLIP towers 1), `patch_size` and "
                "`vision_feature_select_strategy` in processor_config.json.",
            ),
        )
    ]
