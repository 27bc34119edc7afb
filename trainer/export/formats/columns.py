"""A pair as columns of a table, made of its model, so that a new field is a new column."""

import json
from collections.abc import Sequence
from datetime import datetime
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from service.schemas import ImagePart, Message, Pair
from trainer.export.formats.base import Row

CONVERSATIONS = ("prompt", "chosen", "rejected")
SCALARS = {int: "int64", float: "float64", str: "string", datetime: "timestamp[us, tz=UTC]"}


def pair_features() -> dict[str, Any]:
    """A feature of `datasets` for each field of a pair. What has no type of a table, such as
    `settings`, is JSON in a text."""
    import datasets

    part = {"type": datasets.Value("string"), "text": datasets.Value("string")}
    turn = {"role": datasets.Value("string"), "content": datasets.List(part)}
    own = {name: datasets.List(turn) for name in CONVERSATIONS}
    own["images"] = datasets.List(datasets.Image())
    return {
        name: own[name] if name in own else _feature(field.annotation)
        for name, field in Pair.model_fields.items()
    }


def pair_row(pair: Pair, images: Sequence[Any]) -> Row:
    """The pair as a row of `pair_features`."""
    row: Row = {}
    for name, field in Pair.model_fields.items():
        value = getattr(pair, name)
        if name in CONVERSATIONS:
            row[name] = messages(value)
        elif _is_json(field.annotation):
            row[name] = None if value is None else json.dumps(value, ensure_ascii=False)
        else:
            row[name] = _plain(value)
    return row | {"images": list(images)}


def messages(turns: Sequence[Message]) -> list[Row]:
    """Turns with parts, as every row must have them if one has."""
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "image", "text": None}
                if isinstance(part, ImagePart)
                else {"type": "text", "text": part.text}
                for part in turn.parts
            ],
        }
        for turn in turns
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value


def _feature(annotation: Any) -> Any:
    import datasets

    kind = _kind(annotation)
    if kind in SCALARS:
        return datasets.Value(SCALARS[kind])
    if get_origin(kind) is list:
        return datasets.List(_feature(get_args(kind)[0]))
    if _is_json(annotation):
        return datasets.Value("string")
    return {name: _feature(field.annotation) for name, field in kind.model_fields.items()}


def _is_json(annotation: Any) -> bool:
    return get_origin(_kind(annotation)) is dict


def _kind(annotation: Any) -> Any:
    """What it is when it is not null; of names that one may choose from, their type."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        [kind] = {_kind(one) for one in get_args(annotation)} - {type(None)}
        return kind
    return annotation
