"""TRL's vision preference rows: `prompt`, `images`, `chosen`, `rejected`, and the other fields.

Read in TRL 1.16: its collator wants one place in the prompt for each image, and drops the columns
that it does not know.
"""

from collections.abc import Sequence
from typing import Any

from service.schemas import Pair
from trainer.export.formats.base import Format, Row, check_images
from trainer.export.formats.columns import pair_features, pair_row

USAGE = """\
```py
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

pairs = load_dataset("{out}", split="train")
trainer = DPOTrainer(model, args=DPOConfig(max_length=None), train_dataset=pairs)
```
`max_length=None`, because a cut would go through the image tokens. `settings` and `metadata` are
JSON in a text."""


def rows(pair: Pair, images: Sequence[Any]) -> list[Row]:
    check_images(pair)
    return [pair_row(pair, images)]


FORMAT = Format(rows=rows, usage=USAGE, features=pair_features)
