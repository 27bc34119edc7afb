"""Tables for `datasets`: every field of a pair is a column, and the pictures are in them."""

from collections.abc import Sequence
from typing import Any

from service.schemas import Pair
from trainer.export.formats.base import Format, Row
from trainer.export.formats.columns import pair_features, pair_row

USAGE = """\
```py
from datasets import load_dataset

pairs = load_dataset("{out}", split="train")
```
`settings` and `metadata` are JSON in a text."""


def rows(pair: Pair, images: Sequence[Any]) -> list[Row]:
    return [pair_row(pair, images)]


FORMAT = Format(rows=rows, usage=USAGE, features=pair_features)
