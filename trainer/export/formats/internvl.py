"""InternVL's lines for MPO: `image`, `question`, `chosen`, `rejected`, and its meta file.

Read in `internvl_chat_dpo.py`: there is one question, no system turn and no turn before it; one
image is a name, several are a list, none is no key; without a placeholder the one image stands
before the question and a line break.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.schemas import Pair
from trainer.export.formats.base import (
    PLACEHOLDER,
    Format,
    LeftOut,
    Row,
    Shards,
    check_images,
    check_texts,
    rest_of,
    text_with_places,
)

USAGE = """\
```bash
torchrun … internvl/train/internvl_chat_dpo.py --meta_path {out}/meta.json …
```
`meta.json` names the files by their whole paths: where the folder is moved, write it anew by
repeating the command."""


def rows(pair: Pair, images: Sequence[Any]) -> list[Row]:
    check_images(pair)
    if [turn.role for turn in pair.prompt] != ["user"]:
        raise LeftOut("more than one question: InternVL takes no system turn and no turns before")
    check_texts(pair, (PLACEHOLDER,))
    row = {
        "question": text_with_places(pair.prompt[0]),
        "chosen": pair.chosen[0].text,
        "rejected": pair.rejected[0].text,
        **rest_of(pair),
    }
    if images:
        row["image"] = images[0] if len(images) == 1 else list(images)
    return [row]


def index(name: str, out: Path, shards: Shards) -> dict[str, Any]:
    root = str(out.absolute())
    return {
        "meta.json": {
            f"{name}-{number:05}": {
                "root": root,
                "annotation": f"{root}/{shard}",
                "data_augment": False,
                "repeat_time": 1,
                "length": rows,
            }
            for number, (shard, rows) in enumerate(shards)
        }
    }


FORMAT = Format(rows=rows, usage=USAGE, index=index)
