"""Real pairs of the shapes world, put into a run as clients and workers would."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from service.broker import Broker
from service.client import AsyncClient, image_data
from service.schemas import (
    InputDigest,
    Pair,
    RunSettings,
    SampleRequest,
    SampleResult,
    assistant_turn,
    user_turn,
)
from service.settings import Settings
from trainer.data import SECOND_REJECTED
from trainer.stream.rows import Row
from trainer.toy.dataset import Item, examples, held_out, png

RUN = "r"


def append(
    url: str,
    count: int,
    *,
    run: str = RUN,
    start: int = 0,
    window: int = 1000,
    reference: str | None = None,
    input_digest: InputDigest | None = None,
    change: Callable[[int, Pair], Pair] = lambda number, pair: pair,
) -> list[str]:
    """Makes pairs and returns their ids, in the order of the log.

    The chosen side is the item's reference, or the given one. The rejected side tells the number,
    so that it can be told apart. `change`: what becomes of a pair before it is in the log.
    """
    wanted = items(start + count)[start:]
    if reference is not None:
        wanted = [replace(item, reference=reference) for item in wanted]
    return asyncio.run(_append(url, wanted, run, start, window, input_digest, change))


async def _append(
    url: str,
    wanted: list[Item],
    run: str,
    start: int,
    window: int,
    input_digest: InputDigest | None,
    change: Callable[[int, Pair], Pair],
) -> list[str]:
    made: list[str] = []
    settings = Settings(redis_url=url)  # pyright: ignore[reportArgumentType]
    async with AsyncClient(url) as client, Broker.connect(settings) as worker:
        await client.put_run(run, RunSettings(window=window))
        for number, item in enumerate(wanted, start):
            request = SampleRequest(
                prompt=item.prompt,
                images=[image_data(png(item))],
                run=run,
                metadata={SECOND_REJECTED: second_rejected(number)},
            )
            await client.sample(request)
            [claim] = await worker.claims.claim("w", 1, block_s=10)
            pair = Pair(
                prompt=claim.request.conversation,
                images=claim.request.images,
                chosen=[assistant_turn(item.reference)],
                rejected=[assistant_turn(rejected(number))],
                pair_id=claim.job_id,
                run=run,
                method="online",
                chosen_version=None,
                rejected_version=0,
                rejected_spans=[],
                similarity=None,
                iterations=None,
                seed=number,
                input_digest=input_digest,
                created_at=datetime.now(UTC),
                metadata=claim.request.metadata,
            )
            result = SampleResult(responses=[], seed=number, pairs=[change(number, pair)])
            assert await worker.claims.finish(claim, result)
            made.append(claim.job_id)
    return made


def rejected(number: int) -> str:
    return f"There is nothing at all in this picture, number {number}."


def second_rejected(number: int) -> str:
    """What a data set had rejected, for averaged DPO."""
    return f"There is a large elephant in this picture, number {number}."


def write(folder: Path, count: int) -> Path:
    """A data set of pairs in a file, of other items than a run's."""
    lines: list[str] = []
    for number, item in enumerate(examples(count, kinds=("caption",), seed=1)):
        (folder / f"{number}.png").write_bytes(png(item))
        row = {
            "prompt": [user_turn(item.prompt, 1).model_dump()],
            "chosen": [assistant_turn(item.reference).model_dump()],
            "rejected": [assistant_turn(rejected(1000 + number)).model_dump()],
            "images": [f"{number}.png"],
            "pair_id": f"d{number}",
        }
        lines.append(json.dumps(row) + "\n")
    path = folder / "pairs.jsonl"
    path.write_text("".join(lines))
    return path


def write_conversations(folder: Path, rows: int) -> Path:
    """A data set in POVID's layout, of two pairs a row: both answers of a conversation."""
    [item, *_] = examples(1, kinds=("caption",), seed=1)
    (folder / "scene.png").write_bytes(png(item))

    def talk(*answers: str) -> list[dict[str, str]]:
        questions = [f"<image>\n{item.prompt}", "Once more."]
        turns = zip(questions, answers, strict=True)
        return [
            {"from": sender, "value": text}
            for turn in turns
            for sender, text in zip(("human", "gpt"), turn, strict=True)
        ]

    content = [
        {
            "image": "scene.png",
            "conversations": talk(item.reference, item.reference),
            "rejected_conversations": talk(rejected(2 * row), rejected(2 * row + 1)),
        }
        for row in range(rows)
    ]
    path = folder / "povid.json"
    path.write_text(json.dumps(content))
    return path


def items(count: int) -> list[Item]:
    return examples(count, kinds=("caption",))


def held_out_rows(count: int) -> list[Row]:
    """Of scenes that no pair is about."""
    wanted = held_out(count, kinds=("caption",))
    return rows_of(wanted, [rejected(number) for number in range(count)])


def rows_of(wanted: Sequence[Item], rejected: Sequence[str]) -> list[Row]:
    """Rows of items and their rejected sides, as of a data set."""
    return [
        Row(
            Pair.offline(
                prompt=[user_turn(item.prompt, 1)],
                images=[],
                chosen=item.reference,
                rejected=wrong,
                pair_id=str(number),
                run=None,
                created_at=datetime.now(UTC),
                metadata={},
            ),
            [png(item)],
            staleness=None,
        )
        for number, (item, wrong) in enumerate(zip(wanted, rejected, strict=True))
    ]
