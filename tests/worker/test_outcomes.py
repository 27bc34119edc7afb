"""What comes of many jobs, posted from outside: nothing that is no preference reaches a run."""

import random
from collections import Counter
from itertools import product
from typing import Any

import httpx
import pytest

from service.client import AsyncClient, image_data
from service.schemas import (
    BdhsRequest,
    BdhsResult,
    Bounds,
    Outcome,
    PairFilters,
    RunSettings,
    SampleRequest,
    SampleResult,
    outcome_of_texts,
)
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served
from tests.worker.jobs import working
from trainer.toy.dataset import Item, examples, png
from worker.embedder import Embedder
from worker.engine import Engine

JOBS = 500
RUNS = {
    "as-in-the-paper": RunSettings(window=JOBS),
    "strict": RunSettings(
        window=JOBS,
        similar="drop",
        filters=PairFilters(rejected_tokens=Bounds(max=40), finish_reasons=["stop", "sentence"]),
    ),
}
WAYS: list[dict[str, Any]] = [
    {"rho": 0.9},
    {"rho": 0.0, "temperature": 0, "max_iterations": 1},
    {"guidance": "none", "rho": 1.0, "max_iterations": 2},
    {"guidance": "answer", "rho": 1.0, "max_iterations": 2},
    {"guidance": "answer", "start_ratio": 0.9, "rho": 0.5},
    {"corruption": "noise", "guidance": "token"},
    {"corruption": "attention+noise", "max_iterations": 2, "max_tokens": 6},
]


async def own_answers(client: AsyncClient, items: list[Item]) -> list[str]:
    """What the policy itself says: made into references, many come out the same again."""
    asked = [
        SampleRequest(
            prompt=item.prompt, images=[image_data(png(item))], temperature=0, max_tokens=60
        )
        for item in items
    ]
    said = [""] * len(items)
    async for number, job in client.map(asked, in_flight=32):
        assert isinstance(job.result, SampleResult), job.error
        said[number] = job.result.responses[0].text
    return said


@pytest.mark.timeout(600)
async def test_what_is_no_preference_reaches_no_run_and_every_job_says_what_came_of_it(
    server: Server, toy: Engine, embedder: Embedder
) -> None:
    settings = Settings.model_validate({"redis_url": server.url})
    items = examples(40, seed=9)
    async with working(settings, toy, embedder):
        with served(settings) as url:
            async with AsyncClient(url) as client:
                for run, bounds in RUNS.items():
                    await client.put_run(run, bounds)
                texts = [*(item.reference for item in items), *await own_answers(client, items)]
                asked = list(zip(items * 2, texts, strict=True))
                ways = product(asked, product(WAYS, RUNS))
                requests = [
                    BdhsRequest.model_validate(
                        {
                            "prompt": item.prompt,
                            "images": [image_data(png(item))],
                            "reference": text,
                            "max_tokens": 48,
                            "seed": number,
                            "run": run,
                            "metadata": {"number": number},
                            **way,
                        }
                    )
                    for number, ((item, text), (way, run)) in enumerate(ways)
                ]
                requests = random.Random(0).sample(requests, JOBS)
                results: dict[int, BdhsResult] = {}
                async for number, job in client.map(requests, in_flight=64):
                    assert isinstance(job.result, BdhsResult), job.error
                    results[number] = job.result
                runs = {run: await client.run(run) for run in RUNS}
                pairs = {run: [pair async for pair in client.pairs(run)] for run in RUNS}
            async with httpx.AsyncClient(base_url=url) as http:
                left_out = (await http.get("/runs/strict/filtered?limit=1000")).json()["pairs"]

    assert len(results) == JOBS
    for run, of_run in runs.items():
        mine = [results[n] for n, request in enumerate(requests) if request.run == run]
        assert of_run.outcomes == Counter(result.outcome for result in mine)
        assert sum(of_run.outcomes.values()) == len(mine)
        made = {pair.pair_id for result in mine for pair in result.pairs}
        assert made == {pair.pair_id for pair in pairs[run]}
        assert len(made) == of_run.pairs == of_run.outcomes[Outcome.pair]
        for pair in pairs[run]:
            chosen, rejected = pair.chosen[0].text, pair.rejected[0].text
            assert outcome_of_texts(chosen, rejected) is Outcome.pair
    assert sum(sum(of_run.outcomes.values()) for of_run in runs.values()) == JOBS
    assert set(runs["as-in-the-paper"].outcomes) - {"empty"} == {"pair", "same"}
    assert set(runs["strict"].outcomes) - {"empty"} == {"pair", "same", "similar", "filtered"}
    assert len(left_out) == sum(runs["strict"].outcomes[o] for o in ("similar", "filtered"))
    for pair in pairs["strict"]:
        assert pair.rejected_tokens is not None
        assert pair.rejected_tokens <= 40
        assert pair.rejected_finish_reason != "length"
        assert pair.similarity is not None
        assert pair.similarity < 0.97
    for number, result in results.items():
        assert result.text is not None
        assert result.iterations == len(result.trace.iterations if result.trace else ())
        same = outcome_of_texts(requests[number].reference, result.text) is Outcome.same
        assert same == (result.outcome == Outcome.same)
