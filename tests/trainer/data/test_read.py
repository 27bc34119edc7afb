"""Data sets in the layouts in which they are published."""

import json
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest

from service.schemas import ImagePart, Message, TextPart
from tests.trainer.data import samples
from trainer.data import Example, InvalidDataset, InvalidRow, read
from trainer.data.images import load_image
from trainer.toy.dataset import examples
from trainer.toy.world import Scene


def shown(message: Message) -> str:
    """A turn in short, with a star for each image."""
    return "".join("*" if isinstance(p, ImagePart) else p.text for p in message.parts)


def pair(example: Example) -> tuple[list[str], str, str | None]:
    return [shown(m) for m in example.messages], example.chosen, example.rejected


COLOUR = (["*What colour?"], "Red.", "Blue.")
IN_TURN = ["What is on the table?*", "A red cup.", "And below it?"]

FORMATS = [
    pytest.param(
        "llava.json",
        samples.INSTRUCT,
        [
            (IN_TURN[:1], "A red cup.", None),
            (IN_TURN, "A cat.", None),
            (["*Describe."], "A room.", None),
        ],
        id="llava-instruct",
    ),
    pytest.param(
        "povid.json", samples.POVID, [(IN_TURN, "A cat.", "Two dogs and a cat.")], id="povid"
    ),
    pytest.param(
        "llava_7b_v1_preference.json",
        samples.LLAVA_RLHF,
        [(["*What colour?", "Red.", "Sure?"], "Yes, it is red.", "No.")],
        id="llava-rlhf",
    ),
    pytest.param("rlhf-v.parquet", samples.RLHF_V, [COLOUR], id="rlhf-v"),
    pytest.param("rlaif-v.jsonl", samples.RLAIF_V, [COLOUR], id="rlaif-v"),
    pytest.param(
        "vlfeedback.jsonl",
        samples.VLFEEDBACK,
        [(["*What colour?"], "Red, like the cup beside it.", "Bluish.")],
        id="vlfeedback",
    ),
    pytest.param(
        "vlfeedback.parquet",
        samples.VLFEEDBACK[:1],
        [(["*What colour?"], "Red, like the cup beside it.", "Bluish.")],
        id="vlfeedback-parquet",
    ),
    pytest.param("trl.jsonl", samples.TRL, [(["*Colour?"], "Red.", "Blue.")] * 3, id="trl"),
    pytest.param(
        "trl.parquet", samples.TRL[:1], [(["*Colour?"], "Red.", "Blue.")], id="trl-parquet"
    ),
]


@pytest.mark.parametrize(("name", "rows", "expected"), FORMATS)
def test_a_layout_is_known_by_its_rows(
    tmp_path: Path, name: str, rows: list[dict[str, Any]], expected: list[Any]
) -> None:
    found = list(read(str(samples.write(tmp_path, name, rows))))
    assert [pair(example) for example in found] == expected
    for example in found:
        assert [load_image(image) for image in example.images] == [samples.image()]
    assert len({example.key for example in found}) == len(found)


def test_where_an_image_stands_is_kept(tmp_path: Path) -> None:
    rows = [
        {
            "image": [samples.JPEG] * 3,
            "conversations": [
                samples.human("From <image>\nto <image>: what changed?"),
                samples.gpt("The colour."),
            ],
        }
    ]
    [example] = read(str(samples.write(tmp_path, "rows.json", rows)))
    assert example.messages[0].parts == [
        ImagePart(),
        TextPart(text="From"),
        ImagePart(),
        TextPart(text="to"),
        ImagePart(),
        TextPart(text=": what changed?"),
    ]


def test_saved_datasets_and_folders_of_files(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "chosen": datasets.Value("string"),
            "rejected": datasets.Value("string"),
        }
    )
    row = {"prompt": "Colour?", "chosen": "Red.", "rejected": "Blue."}
    picture = {"bytes": samples.image(), "path": None}
    saved = datasets.Dataset.from_list([row | {"images": [picture]}] * 2, features=features)
    saved.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=saved, test=saved.select([0])).save_to_disk(tmp_path / "dict")
    saved.to_parquet(tmp_path / "folder" / "data" / "train-0.parquet")
    saved.to_parquet(tmp_path / "folder" / "data" / "train-1.parquet")
    for name, count in (("saved", 2), ("dict", 2), ("folder", 4)):
        found = list(read(str(tmp_path / name)))
        assert [pair(e) for e in found] == [(["*Colour?"], "Red.", "Blue.")] * count
        assert load_image(found[0].images[0]) == samples.image()
        assert len({e.key for e in found}) == count


def test_a_broken_row_is_named_or_left_out(tmp_path: Path) -> None:
    good = samples.RLAIF_V[0]
    rows: list[dict[str, Any]] = [
        good,
        good | {"image": "gone.jpg"},
        {"question": "What colour?", "image": samples.JPEG, "chosen": "Red.", "text": {}},
        good | {"image": "http://images.example/a.jpg"},
        good | {"question": "<image><image> What?"},
        good | {"question": None},
    ]
    file = samples.write(tmp_path, "rows.jsonl", rows)
    with file.open("a") as lines:
        lines.write('{"question": \n\n[1]\n' + json.dumps(good) + "\n")
    with pytest.raises(InvalidRow, match=r"rows\.jsonl, row 2: there is no image gone\.jpg in "):
        list(read(str(file)))
    bad: list[InvalidRow] = []
    found = list(read(str(file), on_invalid=bad.append))
    assert [pair(e) for e in found] == [COLOUR, COLOUR]
    assert [e.key for e in found] == ["1.0", "9.0"]
    assert [(b.place[-1], b.reason[:24]) for b in bad[1:]] == [
        ("3", "has no field 'question'"),
        ("4", "the image http://images."),
        ("5", "2 <image> in a turn that"),
        ("6", "is not laid out as it sh"),
        ("7", "is not JSON: Expecting v"),
        ("8", "is not an object"),
    ]


def test_what_is_no_data_set_is_said(tmp_path: Path) -> None:
    other = samples.write(tmp_path, "other.jsonl", [{"a": 1, "b": 2}])
    cases = [
        (str(other), "columns a, b, which is none of the known layouts"),
        (str(tmp_path / "none.json"), "There is no "),
        (str(tmp_path / "empty"), "has no file that ends in"),
    ]
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.json").write_text(json.dumps(samples.INSTRUCT)[:-20])
    cases.append((str(tmp_path / "cut.json"), "is not a JSON array"))
    for dataset, reason in cases:
        with pytest.raises(InvalidDataset, match=reason):
            list(read(dataset, images=[tmp_path]))


def test_a_layout_can_be_named(tmp_path: Path) -> None:
    file = samples.write(tmp_path, "povid.json", samples.POVID)
    found = list(read(str(file), dataset_format="llava-instruct"))
    assert [e.rejected for e in found] == [None, None]


def test_other_image_formats_are_encoded_anew(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(samples.image("blue", "GIF"))
    content = load_image(tmp_path / "a.gif")
    assert content.startswith(b"\x89PNG")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b\.jpg cannot be read"):
        load_image(tmp_path / "b.jpg")


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    row = samples.RLAIF_V[0] | {"chosen": "Red. " * 4000}
    file = samples.write(tmp_path, f"large.{suffix}", [row] * 1000)
    assert file.stat().st_size > 19_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in read(str(file))) == 1000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_the_shapes_world_has_no_end() -> None:
    found = list(islice(read("toy"), 5))
    items = examples(5)
    assert [(e.chosen, e.rejected) for e in found] == [(i.reference, None) for i in items]
    scenes = [Scene.read(e.metadata["scene"]) for e in found]  # pyright: ignore[reportArgumentType]
    assert scenes == [item.scene for item in items]


def test_reading_needs_no_engine() -> None:
    heavy = (
        "import sys, trainer.feed.command;"
        " sys.exit(any(m in sys.modules for m in ('torch', 'trl')))"
    )
    assert subprocess.run([sys.executable, "-c", heavy], timeout=60).returncode == 0
