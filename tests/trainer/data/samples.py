"""Small data sets in the published layouts, with contents of our own."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

JPEG = "000000000007.jpg"


def image(colour: str = "red", kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (12, 8), colour).save(out, kind)
    return out.getvalue()


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


INSTRUCT = [
    {
        "id": "7",
        "image": JPEG,
        "conversations": [
            human("What is on the table?\n<image>"),
            gpt("A red cup."),
            human("And below it?"),
            gpt("A cat."),
        ],
    },
    {"id": "8", "image": JPEG, "conversations": [human("<image>\nDescribe."), gpt("A room.")]},
]

POVID = [
    {
        "id": "7",
        "image": JPEG,
        "conversations": INSTRUCT[0]["conversations"],
        "rejected_conversations": [
            human("What is on the table?\n<image>"),
            gpt("A red cup."),
            human("And below it?"),
            gpt("Two dogs and a cat."),
        ],
    }
]

LLAVA_RLHF = [
    {
        "id": "7",
        "image": JPEG,
        "conversations": [human("<image>\nWhat colour?"), gpt("Red."), human("Sure?"), gpt("")],
        "output_1": {"from": "llava", "value": "No."},
        "output_2": {"from": "llava", "value": "Yes, it is red."},
        "preference": 2,
    },
    {
        "id": "8",
        "image": JPEG,
        "conversations": [human("<image>\nWhat colour?")],
        "output_1": {"from": "llava", "value": "Red."},
        "output_2": {"from": "llava", "value": "Red!"},
        "preference": 0,
    },
]

RLHF_V = [
    {
        "ds_name": "RLHF-V",
        "image": {"bytes": image(), "path": JPEG},
        "text": json.dumps({"question": "What colour?", "chosen": "Red.", "rejected": "Blue."}),
        "origin_dataset": "LCS-558K",
        "origin_split": "{}",
        "idx": 0,
        "image_path": "llava/0.jpg",
    }
]

RLAIF_V = [{"question": "What colour?", "chosen": "Red.", "rejected": "Blue.", "image": JPEG}]


def rated(*ratings: str) -> dict[str, dict[str, str]]:
    aspects = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
    return {a: {"Rating": r, "Rationale": "…"} for a, r in zip(aspects, ratings, strict=True)}


VLFEEDBACK = [
    {
        "id": "svit-7",
        "prompt": "What colour?",
        "img_path": JPEG,
        "models": ["a", "b", "c", "d"],
        "completions": {
            "model": ["a", "b", "c", "d"],
            "response": ["Bluish.", "Red, like the cup beside it.", "Red.", "?"],
            "annotations": [
                rated("2", "5", "1"),
                rated("5", "5", "5"),
                rated("4", "5", "5"),
                rated("N/A", "5", "5"),
            ],
        },
    },
    {
        "id": "svit-8",
        "prompt": "What colour?",
        "img_path": JPEG,
        "completions": [
            {"model": "a", "response": "Red.", "annotations": rated("4", "4", "4")},
            {"model": "b", "response": "It is red.", "annotations": rated("4", "4", "4")},
        ],
    },
]


def said(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}


TRL = [
    {
        "prompt": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Colour?"}]}
        ],
        "images": [JPEG],
        "chosen": [said("assistant", "Red.")],
        "rejected": [said("assistant", "Blue.")],
    },
    {"prompt": "Colour?", "image": JPEG, "chosen": "Red.", "rejected": "Blue."},
    {
        "images": [JPEG],
        "chosen": [said("user", "Colour?"), said("assistant", "Red.")],
        "rejected": [said("user", "Colour?"), said("assistant", "Blue.")],
    },
]


def write(folder: Path, name: str, rows: list[dict[str, Any]], *, with_image: bool = True) -> Path:
    """The rows under a name whose suffix says how: an array, lines or parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    if with_image:
        (folder / JPEG).write_bytes(image())
    file = folder / name
    if file.suffix == ".json":
        file.write_text(json.dumps(rows))
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file
