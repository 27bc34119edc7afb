"""Pairs of every kind, and runs of them."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from service.broker import Broker
from service.schemas import (
    ImagePart,
    InputDigest,
    Message,
    Pair,
    RunSettings,
    SampleRequest,
    SampleResult,
    Span,
    TextPart,
    assistant_turn,
)
from service.settings import Settings
from tests.service.samples import png

RUN = "r"
COLOURS = ("red", "green", "blue")
TAGS = ("<image>", "<video>", "<audio>", "<bbox>", "<img>", "<im", "age>", "<", "\0")
LINES = ("\u2028", "\x85", "\r", "\n", "\r\n", '"', "\\", "\ufeff", "🙂", "图")


def texts(*, tags: bool = True) -> st.SearchStrategy[str]:
    """Any text that JSON can carry; with `tags`, also of what trainers replace."""
    pieces = st.one_of(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
        st.sampled_from(LINES),
        *([st.sampled_from(TAGS)] if tags else []),
    )
    return st.lists(pieces, min_size=1, max_size=4).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Turns of any roles, the last one a user's, with images at any place."""
    roles = draw(
        st.one_of(
            st.sampled_from([["user"], ["system", "user"], ["user", "assistant", "user"]]),
            st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=3).map(
                lambda some: [*some, "user"]
            ),
        )
    )
    tags = draw(st.booleans())
    part = st.one_of(
        st.builds(TextPart, text=texts(tags=tags)), st.builds(ImagePart), st.builds(ImagePart)
    )
    content = st.one_of(texts(tags=tags), st.lists(part, min_size=1, max_size=4))
    return [Message(role=role, content=draw(content)) for role in roles]


@st.composite
def pairs(draw: st.DrawFn, refs: Sequence[str], pair_id: str = "p") -> Pair:
    """A pair that may have any of its fields."""
    prompt = draw(conversations())
    places = sum(isinstance(part, ImagePart) for turn in prompt for part in turn.parts)
    seldom: dict[str, st.SearchStrategy[Any]] = {
        "rejected_token_spans": st.just([Span(start=0, end=2)]),
        "chosen_finish_reason": st.just("stop"),
        "rejected_finish_reason": st.sampled_from(["sentence", "length"]),
        "logps_version": st.integers(0, 9),
        "input_digest": st.just(InputDigest(chat_template="a", tokenizer="b", processor="c")),
        "similarity": st.floats(-1, 1),
        "iterations": st.integers(1, 9),
        "seed": st.integers(0, (1 << 53) - 1),
    }
    for side in ("chosen", "rejected"):
        seldom |= {
            f"{side}_version": st.integers(0, 9),
            f"{side}_token_ids": st.lists(st.integers(0, 1 << 20)),
            f"{side}_logprobs": st.lists(st.floats(-50, 0)),
            f"{side}_tokens": st.integers(1, 999),
            f"{side}_logps": st.floats(-99, 0),
            f"{side}_image_dependence": st.floats(-9, 9),
            f"ref_{side}_logps": st.floats(-99, 0),
        }
    fields = {name: draw(st.one_of(st.none(), some)) for name, some in seldom.items()}
    json_values = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), texts())
    tagged = draw(st.booleans())
    return Pair(
        prompt=prompt,
        images=[draw(st.sampled_from(refs)) for _ in range(places)],
        chosen=[assistant_turn("c" + draw(texts(tags=tagged)))],
        rejected=[assistant_turn("r" + draw(texts(tags=tagged)))],
        pair_id=pair_id,
        run=RUN,
        method=draw(st.sampled_from(["bdhs-attention", "online", "offline"])),
        rejected_spans=draw(st.sampled_from([[], [Span(start=0, end=3)]])),
        settings=draw(st.dictionaries(texts(), json_values, max_size=2)),
        metadata=draw(st.dictionaries(texts(), st.lists(json_values, max_size=2), max_size=2)),
        created_at=draw(
            st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))
        ),
        **fields,
    )


def plain(pair: Pair) -> dict[str, Any]:
    """All that a pair says, whether a turn is a text, or parts, or in how many pieces its text."""
    said = pair.model_dump()
    for name in ("prompt", "chosen", "rejected"):
        said[name] = [(turn.role, pieces(turn)) for turn in getattr(pair, name)]
    return said


def pieces(turn: Message) -> list[str | None]:
    """Texts, and None where an image stands."""
    found: list[str | None] = []
    for part in turn.parts:
        if isinstance(part, ImagePart):
            found.append(None)
        elif part.text and found and found[-1] is not None:
            found[-1] += part.text
        elif part.text:
            found.append(part.text)
    return found


KEEP_ALL = RunSettings(window=100_000)


def put(url: str, made: Sequence[Pair], settings: RunSettings = KEEP_ALL) -> None:
    """Into the log of `RUN`, as a worker does; the pictures are those of `COLOURS`."""
    asyncio.run(_put(url, made, settings))


async def _put(url: str, made: Sequence[Pair], run_settings: RunSettings) -> None:
    settings = Settings(redis_url=url)  # pyright: ignore[reportArgumentType]
    async with Broker.connect(settings) as broker:
        await broker.runs.put(RUN, run_settings)
        for colour in COLOURS:
            await broker.images.put(png(colour))
        for pair in made:
            request = SampleRequest(prompt="?", run=RUN)
            await broker.jobs.enqueue(request)
            [claim] = await broker.claims.claim("w", 1, block_s=10)
            result = SampleResult(responses=[], seed=0, pairs=[pair])
            assert await broker.claims.finish(claim, result)
