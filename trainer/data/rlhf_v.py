"""RLHF-V (Yu et al. 2023, arXiv 2312.00849) and RLAIF-V: answers of a model, and better ones.

Parquet or JSON rows of {image, text, ds_name, idx, origin_dataset, …} where `text` is a JSON object
of {question, chosen, rejected}; RLAIF-V has these three as columns.
"""

import json
from collections.abc import Iterator
from typing import Any

from trainer.data import turns
from trainer.data.example import Example
from trainer.data.images import images_of_row

KEPT = ("ds_name", "idx", "origin_dataset")


def matches(row: dict[str, Any]) -> bool:
    return {"question", "chosen", "rejected"} <= row.keys() or ("text" in row and "ds_name" in row)


def examples(row: dict[str, Any]) -> Iterator[Example]:
    text = row.get("text", row)
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except ValueError:
            raise ValueError("its `text` is not JSON of question, chosen and rejected") from None
    images = images_of_row(row)
    yield Example(
        messages=[turns.user_turn(text["question"], len(images))],
        images=images,
        chosen=text["chosen"],
        rejected=text["rejected"],
        metadata={name: str(row[name]) for name in KEPT if row.get(name) is not None},
    )
