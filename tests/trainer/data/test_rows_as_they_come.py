"""Rows as people and programs write them: read as they are meant, or refused with the reason."""

import base64
import codecs
import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.schemas import ImagePart
from tests.trainer.data import samples
from trainer.data import FORMATS, Example, InvalidDataset, InvalidRow, read
from trainer.data.images import load_image
from trainer.feed.feeder import FeedPlan, Method

GOOD = samples.RLAIF_V[0]
BASE64 = base64.b64encode(samples.image()).decode()
PNG = base64.b64encode(samples.image(kind="PNG")).decode()


def read_rows(
    folder: Path, rows: list[Any], **options: Any
) -> tuple[list[Example], list[InvalidRow]]:
    bad: list[InvalidRow] = []
    file = samples.write(folder, "rows.jsonl", rows)
    return list(read(str(file), on_invalid=bad.append, **options)), bad


@pytest.mark.parametrize(
    "image",
    [
        BASE64,
        base64.encodebytes(samples.image()).decode(),
        f"data:image/jpeg;base64,{BASE64}",
        {"bytes": BASE64, "path": None},
        [BASE64],
    ],
)
@pytest.mark.parametrize("column", ["image", "images", "img_path", "image_path"])
def test_base64_is_a_picture(tmp_path: Path, image: Any, column: str) -> None:
    row = {key: value for key, value in GOOD.items() if key != "image"} | {column: image}
    ([example], []) = read_rows(tmp_path, [row])
    assert [load_image(source) for source in example.images] == [samples.image()]


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ("x" * 5000, "image not found"),
        ("a\0.png", "image not found"),
        (".", "image not found"),
        ("data:image/png;base64,=!", "image unreadable"),
        ("", "layout"),
        ({"bytes": None, "path": None}, "layout"),
        (12, "layout"),
        (float("nan"), "layout"),
    ],
)
def test_what_is_no_picture_is_refused_in_few_words(tmp_path: Path, image: Any, kind: str) -> None:
    for row in (GOOD | {"image": image}, samples.INSTRUCT[0] | {"image": image}):
        found, [bad] = read_rows(tmp_path, [row])
        assert not found
        assert bad.kind == kind
        assert bad.place == "rows.jsonl, row 1"
        assert len(str(bad)) < 700


def test_errors_hold_no_whole_picture(tmp_path: Path) -> None:
    long = "A" * 100_000
    rows = [
        GOOD | {"question": {"a": long}},
        GOOD | {"question": [long]},
        {"conversations": [{"from": long, "value": "?"}, samples.gpt("!")], "image": samples.JPEG},
        samples.LLAVA_RLHF[0] | {"preference": long},
        GOOD | {"image": long},
    ]
    for row, layout in zip(
        rows, ["rlhf-v", "rlhf-v", "llava-instruct", "llava-rlhf", "rlhf-v"], strict=True
    ):
        found, [bad] = read_rows(tmp_path, [row], dataset_format=layout)
        assert not found
        assert len(str(bad)) < 700


@pytest.mark.parametrize(
    "columns",
    [
        {"img": samples.JPEG},
        {"picture": samples.JPEG},
        {"image_file": samples.JPEG},
        {"file": "a/b.jpg"},
        {"content": f"data:image/png;base64,{PNG}"},
        {"image_id": 7},
        {"shown": {"bytes": BASE64}},
        {"pictures": [samples.JPEG]},
        {"video": "a.mp4"},
        {"image": None, "image_url": "http://images.example/a.jpg"},
        {"images": [], "img": samples.JPEG},
    ],
)
@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [samples.human("What?"), samples.gpt("A cup.")]},
        {"question": "What?", "chosen": "A cup.", "rejected": "A cat."},
        {"prompt": "What?", "chosen": "A cup.", "rejected": "A cat."},
        samples.VLFEEDBACK[0] | {"img_path": None},
    ],
)
def test_a_picture_in_another_column_is_no_job_of_text(
    tmp_path: Path, row: dict[str, Any], columns: dict[str, Any]
) -> None:
    found, [bad] = read_rows(tmp_path, [row | columns])
    assert not found
    assert bad.place == "rows.jsonl, row 1"
    assert f"`{list(columns)[-1]}` looks like one" in bad.reason


def test_the_column_may_be_called_images(tmp_path: Path) -> None:
    talk = [samples.human("What?"), samples.gpt("A cup.")]
    rows = [
        {"conversations": talk, "images": [samples.JPEG]},
        {"conversations": talk, "images": samples.JPEG},
        {"conversations": talk, "image": None, "images": None, "model": "", "id": "text"},
    ]
    found, bad = read_rows(tmp_path, rows)
    assert not bad
    assert [len(example.images) for example in found] == [1, 1, 0]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("<image>\nWhat?", "*What?"),
        ("What is\n<image>?", "What is*?"),
        ([{"type": "text", "text": "<image>What?"}], "*What?"),
        ([{"type": "image"}, {"type": "text", "text": "What is <image>?"}], "*What is <image>?"),
        ("What?", "*What?"),
    ],
)
def test_images_stand_where_trl_rows_say(tmp_path: Path, content: Any, parts: str) -> None:
    prompt = [{"role": "user", "content": content}]
    row = {"prompt": prompt, "images": [samples.JPEG], "chosen": "A cup.", "rejected": "A cat."}
    ([example], []) = read_rows(tmp_path, [row])
    shown = ["*" if isinstance(p, ImagePart) else p.text for p in example.messages[0].parts]
    assert "".join(shown) == parts


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([samples.said("user", "<image> or <image>?")], "2 places for images in the prompt, but 1"),
        ([samples.said("system", "Be brief.")], "a prompt without a user's turn"),
        (
            [{"role": "user", "content": [{"type": "image_url", "text": None}]}],
            "a part of type 'image_url', which is neither text nor image",
        ),
    ],
)
def test_trl_rows_whose_images_have_no_place(
    tmp_path: Path, prompt: list[Any], reason: str
) -> None:
    row = {"prompt": prompt, "images": [samples.JPEG], "chosen": "A cup.", "rejected": "A cat."}
    found, [bad] = read_rows(tmp_path, [row])
    assert not found
    assert reason in bad.reason


@pytest.mark.parametrize("rating", [float("nan"), "nan", "inf", "-inf", "NaN", None, "N/A", "", []])
def test_a_rating_that_is_no_number_does_not_count(tmp_path: Path, rating: Any) -> None:
    def answer(model: str, *ratings: Any) -> dict[str, Any]:
        return {"model": model, "response": f"{model}.", "annotations": samples.rated(*ratings)}

    for answers in (
        [answer("a", "5", rating, "5"), answer("b", 4, 4.5, 4), answer("c", "1", "1", "1")],
        [answer("b", " 4 ", "4", "4"), answer("c", "1", "1", "1"), answer("a", "5", rating, "5")],
    ):
        row = {"prompt": "What?", "img_path": samples.JPEG, "completions": answers}
        ([example], []) = read_rows(tmp_path, [row])
        assert (example.chosen, example.rejected) == ("b.", "c.")


def test_a_name_in_several_folders(tmp_path: Path) -> None:
    """The whole name first, in the order of the folders; then its last part, if one has it."""
    one, two, own = tmp_path / "one", tmp_path / "two", tmp_path / "own"
    for file in (one / "a.jpg", two / "set" / "a.jpg", two / "b.jpg", own / "set" / "c.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(samples.image())
    for file in (one / "d.jpg", two / "d.jpg", one / "set" / "e.jpg", two / "set" / "e.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(samples.image())
    names = [f"set/{letter}.jpg" for letter in "abcde"]
    rows = [GOOD | {"image": name} for name in names]
    found, [bad] = read_rows(own, rows, images=[one, two])
    assert [example.images for example in found] == [
        (two / "set" / "a.jpg",),
        (two / "b.jpg",),
        (own / "set" / "c.jpg",),
        (one / "set" / "e.jpg",),
    ]
    assert bad.kind == "image not found"
    assert f"set/d.jpg could be {one / 'd.jpg'} or {two / 'd.jpg'}" in bad.reason


def test_files_as_other_systems_write_them(tmp_path: Path) -> None:
    (tmp_path / samples.JPEG).write_bytes(samples.image())
    array, lines = json.dumps([GOOD, GOOD]), f"{json.dumps(GOOD)}\r\n\r\n{json.dumps(GOOD)}"
    for name, text in (("a.json", array), ("b.json", lines), ("c.jsonl", lines)):
        (tmp_path / name).write_bytes(codecs.BOM_UTF8 + text.encode())
        assert len(list(read(str(tmp_path / name)))) == 2
        (tmp_path / name).write_text(text, encoding="utf-16")
        with pytest.raises(InvalidDataset, match="is UTF-16: save it as UTF-8"):
            list(read(str(tmp_path / name)))
    (tmp_path / "d.json").write_bytes(array.replace("Red", "\xe9").encode("latin-1"))
    with pytest.raises(InvalidDataset, match=r"d\.json is not a JSON array"):
        list(read(str(tmp_path / "d.json")))
    (tmp_path / "e.jsonl").write_text("[" * 100_000 + "\n" + json.dumps(GOOD))
    found, bad = [], []
    for example in read(str(tmp_path / "e.jsonl"), on_invalid=bad.append):
        found.append(example)
    assert (len(found), [row.kind for row in bad]) == (1, ["not JSON"])


SAMPLES: dict[str, list[dict[str, Any]]] = {
    "povid": samples.POVID,
    "llava-rlhf": samples.LLAVA_RLHF,
    "vlfeedback": samples.VLFEEDBACK,
    "rlhf-v": samples.RLAIF_V,
    "trl": samples.TRL,
    "llava-instruct": samples.INSTRUCT,
}
text = st.text(max_size=8) | st.sampled_from(["<image>", "user", "text", "1e999", BASE64, "a\0"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            text | st.sampled_from(["role", "content", "type", "from", "value"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, layout: str) -> Any:
    """A row of the layout, with something else in some of its places."""
    row = copy.deepcopy(draw(st.sampled_from(SAMPLES[layout])))
    for _ in range(draw(st.integers(0, 2))):
        inner: Any = row
        while True:
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inner[key], dict | list) and draw(st.booleans()):
                inner = inner[key]
                continue
            inner[key] = draw(json_values)
            break
    return row


@pytest.mark.parametrize("layout", FORMATS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_row_is_read_or_refused(tmp_path: Path, layout: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(damaged(layout) | json_values, min_size=1, max_size=4))
    found, bad = read_rows(tmp_path, rows, dataset_format=layout)
    numbers = {int(row.place.rsplit(" ", 1)[1]) for row in bad}
    assert len(numbers) == len(bad)
    for row in bad:
        assert row.reason
    methods: list[Method] = ["bdhs", "offline"]
    for example in found:
        for method in methods:
            plan = FeedPlan("d", "r", method)
            with suppress(ValueError):  # which the feeder makes an InvalidRow of
                plan.request(example, ["sha256:" + "0" * 64] * len(example.images))
