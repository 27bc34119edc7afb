"""What a run's pairs are like: words by hand, and the report of a real run."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.broker import Broker
from service.schemas import (
    Bucket,
    Distribution,
    Pair,
    PairFilters,
    RunSettings,
    assistant_turn,
    user_turn,
)
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served
from tests.service.samples import bdhs_result, claim_one, enqueue_bdhs
from trainer.report.command import report
from trainer.report.pairs import histogram, replacements


def pair(chosen: str, rejected: str) -> Pair:
    return Pair.offline(
        prompt=[user_turn("?", 0)],
        images=[],
        chosen=chosen,
        rejected=rejected,
        pair_id="p",
        run=None,
        created_at=datetime.now(UTC),
        metadata={},
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "replaced"),
    [
        ("A red circle.", "A blue circle.", [("red", "blue")]),
        ("A red circle.", "a green  star", [("red", "green"), ("circle", "star")]),
        ("A circle.", "A large red circle!", [("", "large red")]),
        ("Yes, there is a cat.", "No, there is no cat.", [("yes", "no"), ("a", "no")]),
        ("A red circle.", "A red circle, and much more that nobody can see", []),
        ("红圆", "蓝圆", [("红", "蓝")]),
    ],
)
def test_words_that_stand_in_place_of_others(
    chosen: str, rejected: str, replaced: list[tuple[str, str]]
) -> None:
    assert list(replacements(pair(chosen, rejected))) == replaced


def test_a_histogram_begins_and_ends_with_what_is_there() -> None:
    counts = [(1.0, 0), (2.0, 30), (3.0, 0), (4.0, 10), (None, 0)]
    buckets = [Bucket(le=le, count=count) for le, count in counts]
    lines = histogram(Distribution(count=40, mean=2.5, buckets=buckets))
    assert lines == [
        "     ≤ 2      30 " + "█" * 30,
        "     ≤ 3       0",
        "     ≤ 4      10 " + "█" * 10,
    ]


async def make(server: Server) -> Settings:
    settings = Settings.model_validate({"redis_url": server.url})
    async with Broker.connect(settings) as broker:
        filters = PairFilters(finish_reasons=["stop"])
        await broker.runs.put("r", RunSettings(filters=filters))
        for text, reason in (
            ("A blue square.", "stop"),
            ("A blue circle.", "stop"),
            ("A red square. ", "stop"),
            ("A green square.", "length"),
        ):
            await enqueue_bdhs(broker, run="r")
            claim = await claim_one(broker)
            fields = {"rejected": [assistant_turn(text)], "rejected_finish_reason": reason}
            await broker.claims.finish(claim, bdhs_result(claim, **fields))
    return settings


async def test_the_report_of_a_run(server: Server, tmp_path: Path) -> None:
    settings = await make(server)
    with served(settings) as url:
        arguments = ["pairs", "--run", "r", "--url", url, "--out", str(tmp_path)]
        ran = await asyncio.to_thread(CliRunner().invoke, report, arguments)
        assert ran.exit_code == 0, ran.output
        arguments = ["pairs", "--run", "none", "--url", url]
        missing = await asyncio.to_thread(CliRunner().invoke, report, arguments)
    assert missing.exit_code == 2
    assert "none" in missing.output
    told = json.loads((tmp_path / "pairs.json").read_text())
    assert told["outcomes"] == {"filtered": 1, "pair": 2, "same": 1}
    assert told["filtered"] == {"finish_reasons": 1}
    assert told["replaced"] == [
        {"chosen": "red", "rejected": "blue", "count": 2},
        {"chosen": "square", "rejected": "circle", "count": 1},
    ]
    assert told["distributions"]["similarity"]["count"] == told["compared"] == 2
    assert "| red | blue | 2 |" in (tmp_path / "pairs.md").read_text()
    assert "similarity" in ran.output
