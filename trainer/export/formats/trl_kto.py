"""TRL's unpaired rows for KTO: `prompt`, `images`, `completion`, `label`; a pair is two of them.

What a pair says of a side is a column without the side's name, such as `version` and `tokens`.
"""

from collections.abc import Sequence
from typing import Any

from service.schemas import Pair
from trainer.export.formats.base import Format, Row, check_images
from trainer.export.formats.columns import pair_features, pair_row

USAGE = """\
```py
from datasets import load_dataset
from trl import KTOConfig, KTOTrainer

rows = load_dataset("{out}", split="train")
trainer = KTOTrainer(model, args=KTOConfig(max_length=None), train_dataset=rows)
```
A pair is two rows of one `pair_id`, the chosen side's (`label` true) first."""

SIDES = (("chosen", "rejected"), ("rejected", "chosen"))


def features() -> dict[str, Any]:
    import datasets

    found = _of_side(pair_features(), *SIDES[0]) | _of_side(pair_features(), *SIDES[1])
    return found | {"label": datasets.Value("bool")}


def rows(pair: Pair, images: Sequence[Any]) -> list[Row]:
    check_images(pair)
    row = pair_row(pair, images)
    return [_of_side(row, *side) | {"label": side[0] == "chosen"} for side in SIDES]


def _of_side(row: Row, side: str, other: str) -> Row:
    """The columns of a side and of both, under names without the side's."""
    return {
        "completion" if name == side else name.replace(f"{side}_", ""): value
        for name, value in row.items()
        if other not in name.split("_")
    }


FORMAT = Format(rows=rows, usage=USAGE, features=features)
