"""LLaMA-Factory's sharegpt ranking: `conversations`, `chosen`, `rejected`, `images`, and the entry
of `dataset_info.json`.

Read in LLaMA-Factory 0.9.5: `file_name` may be a folder, all of whose files are read; names in
`images` are relative to the folder of `dataset_info.json`; turns must alternate.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.schemas import Message, Pair
from trainer.export.formats.base import (
    PLACEHOLDER,
    Format,
    Row,
    Shards,
    check_images,
    check_texts,
    check_turns,
    rest_of,
    text_with_places,
)

USAGE = """\
```bash
llamafactory-cli train --stage dpo --dataset_dir {out} --dataset {name} …
```
`dataset_info.json` names the data set; names in `images` are relative to its folder."""

TAGS = (PLACEHOLDER, "<video>", "<audio>")
SENDERS = {"system": "system", "user": "human", "assistant": "gpt"}


def rows(pair: Pair, images: Sequence[Any]) -> list[Row]:
    check_images(pair)
    check_turns(pair)
    check_texts(pair, TAGS)
    return [
        {
            "conversations": [_turn(turn) for turn in pair.prompt],
            "chosen": _turn(pair.chosen[0]),
            "rejected": _turn(pair.rejected[0]),
            "images": list(images),
            **rest_of(pair),
        }
    ]


def _turn(turn: Message) -> Row:
    return {"from": SENDERS[turn.role], "value": text_with_places(turn)}


def index(name: str, out: Path, shards: Shards) -> dict[str, Any]:
    entry = {
        "file_name": "data",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "conversations",
            "chosen": "chosen",
            "rejected": "rejected",
            "images": "images",
        },
    }
    return {"dataset_info.json": {name: entry}}


FORMAT = Format(rows=rows, usage=USAGE, index=index)
