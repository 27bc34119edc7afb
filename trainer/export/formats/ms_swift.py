"""ms-swift's lines for RLHF: `messages` with the chosen answer last, `rejected_response`, `images`.

Read in ms-swift 4.6: columns it does not know are dropped, turns of one role in a row are joined,
and some tags in a text are replaced.
"""

from collections.abc import Sequence
from typing import Any

from service.schemas import Pair
from trainer.export.formats.base import (
    PLACEHOLDER,
    Format,
    Row,
    check_images,
    check_texts,
    check_turns,
    rest_of,
    text_with_places,
)

USAGE = """\
```bash
ROOT_IMAGE_DIR={out} swift rlhf --rlhf_type dpo --model MODEL --dataset {out}/data/*.jsonl
```
`ROOT_IMAGE_DIR` is what the names in `images` are relative to."""

TAGS = (
    *(PLACEHOLDER, "<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>"),
    *("<start-image>", "<img>"),
)


def rows(pair: Pair, images: Sequence[Any]) -> list[Row]:
    check_images(pair)
    check_turns(pair)
    check_texts(pair, TAGS)
    turns = [*pair.prompt, *pair.chosen]
    return [
        {
            "messages": [{"role": turn.role, "content": text_with_places(turn)} for turn in turns],
            "images": list(images),
            "rejected_response": pair.rejected[0].text,
            **rest_of(pair),
        }
    ]


FORMAT = Format(rows=rows, usage=USAGE)
