"""What an export says, read as its trainers read it and without this project's code."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from service.schemas import ImagePart, Message, Pair, Part, TextPart, assistant_turn
from tests.service.samples import png
from tests.trainer.export.made import COLOURS

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
SIDES = ("chosen", "rejected")

PICTURES = {"sha256:" + hashlib.sha256(png(c)).hexdigest(): png(c) for c in COLOURS}


def read_back(to: str, out: Path) -> list[Pair]:
    """The pairs of an export."""
    if to in ("trl", "hf", "trl-kto"):
        rows = list(_load(out))
        return [_of_columns(row) for row in (_joined(rows) if to == "trl-kto" else rows)]
    reader = {"ms-swift": _of_swift, "llamafactory": _of_llamafactory, "internvl": _of_internvl}[to]
    return [reader(row, out) for row in lines(to, out)]


def _load(out: Path) -> Iterator[dict[str, Any]]:
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(out / ".cache"))
    assert isinstance(loaded, datasets.Dataset)
    assert loaded.features["images"] == datasets.List(datasets.Image())
    for row in loaded.cast_column("images", datasets.List(datasets.Image(decode=False))):
        assert isinstance(row, dict)
        yield row


def lines(to: str, out: Path) -> Iterator[dict[str, Any]]:
    """Rows as the trainer finds them: by its own index, where it has one."""
    if to == "llamafactory":
        [entry] = json.loads((out / "dataset_info.json").read_text()).values()
        assert (entry["ranking"], entry["formatting"]) == (True, "sharegpt")
        assert sorted(entry["columns"].values()) == sorted(("conversations", "images", *SIDES))
        files = sorted((out / entry["file_name"]).iterdir())
    elif to == "internvl":
        meta = json.loads((out / "meta.json").read_text()).values()
        files = [Path(entry["annotation"]) for entry in meta]
        for entry, file in zip(meta, files, strict=True):
            assert entry["length"] == file.read_bytes().count(b"\n")
            assert Path(entry["root"]) == out
    else:
        files = sorted((out / "data").glob("*.jsonl"))
    for file in files:
        with file.open() as found:
            yield from map(json.loads, found)


def _of_columns(row: dict[str, Any]) -> Pair:
    fields = dict(row)
    for name in ("prompt", *SIDES):
        fields[name] = [
            Message(role=turn["role"], content=[_part(part) for part in turn["content"]])
            for turn in row[name]
        ]
    fields["images"] = [_ref(picture["bytes"], picture["path"]) for picture in row["images"]]
    for name in ("settings", "metadata"):
        fields[name] = json.loads(row[name])
    return Pair(**fields)


def _part(part: dict[str, Any]) -> Part:
    return ImagePart() if part["type"] == "image" else TextPart(text=part["text"])


def _joined(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Two rows of KTO as one of DPO."""
    for chosen, rejected in zip(rows[::2], rows[1::2], strict=True):
        assert (chosen.pop("label"), rejected.pop("label")) == (True, False)
        joined: dict[str, Any] = {}
        for side, row in zip(SIDES, (chosen, rejected), strict=True):
            for name, value in row.items():
                own = {"completion": side, "ref_logps": f"ref_{side}_logps"}.get(name)
                joined[own or f"{side}_{name}"] = value
                joined.setdefault(name, value)
        yield {name: joined[name] for name in Pair.model_fields}


def _of_swift(row: dict[str, Any], out: Path) -> Pair:
    *prompt, last = row["messages"]
    assert last["role"] == "assistant"
    turns = [(turn["role"], turn["content"]) for turn in prompt]
    return _pair(row, out, turns, last["content"], row["rejected_response"], row["images"])


def _of_llamafactory(row: dict[str, Any], out: Path) -> Pair:
    assert row["chosen"]["from"] == row["rejected"]["from"] == "gpt"
    turns = [(ROLES[turn["from"]], turn["value"]) for turn in row["conversations"]]
    return _pair(row, out, turns, row["chosen"]["value"], row["rejected"]["value"], row["images"])


def _of_internvl(row: dict[str, Any], out: Path) -> Pair:
    images = row.get("image", [])
    names = [images] if isinstance(images, str) else images
    return _pair(row, out, [("user", row["question"])], row["chosen"], row["rejected"], names)


def _pair(
    row: dict[str, Any],
    out: Path,
    turns: list[tuple[str, str]],
    chosen: str,
    rejected: str,
    names: list[str],
) -> Pair:
    return Pair(
        prompt=[Message(role=role, content=_parts(text)) for role, text in turns],
        chosen=[assistant_turn(chosen)],
        rejected=[assistant_turn(rejected)],
        images=[_ref((out / name).read_bytes(), name) for name in names],
        **json.loads(row["pair"]),
    )


def _parts(text: str) -> list[Part]:
    parts: list[Part] = []
    for number, piece in enumerate(text.split("<image>")):
        parts += [ImagePart()] * bool(number) + [TextPart(text=piece)]
    return parts


def _ref(content: bytes, name: str) -> str:
    ref = "sha256:" + hashlib.sha256(content).hexdigest()
    assert PICTURES[ref] == content
    assert Path(name).name == ref.removeprefix("sha256:") + ".png"
    return ref
