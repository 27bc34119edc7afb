"""`prefstream up` under kill -9: each part comes back, and what was accepted is done, once."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from service.client import AsyncClient, image_data
from service.schemas import BdhsRequest, JobStatus, RunSettings
from tests.processes import Up, alive_after_a_while
from tests.service.samples import png
from tests.worker import checkpoints

RUN = "r"
JOBS = 24
PARTS = {"worker": "work", "service": "serve", "valkey": "valkey-server"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.llava(tmp_path_factory.mktemp("model"))


@pytest.fixture
def up(model: Path, tmp_path: Path) -> Iterator[Up]:
    up = Up(model, tmp_path / "data", PREFSTREAM_LEASE_S="3")
    yield up
    up.close()


@asynccontextmanager
async def accepted_jobs(up: Up, first: int) -> AsyncIterator[list[str]]:
    """The ids of jobs that were accepted; at the end all of them have succeeded."""
    async with AsyncClient(up.url, retry_for_s=240) as client:
        await client.put_run(RUN, RunSettings(window=1000))
        image = image_data(png())
        requests = [
            BdhsRequest(
                prompt=f"Number {number}?",
                images=[image],
                reference="A red square. It is large.",
                max_tokens=64,
                run=RUN,
                seed=number,
            )
            for number in range(first, first + JOBS)
        ]
        jobs = [await client.bdhs(request) for request in requests]
        yield [job.id for job in jobs]
        for job in jobs:
            ended = await client.job(job.id, wait_s=240)
            assert ended.status is JobStatus.succeeded, ended


@pytest.mark.timeout(900)
async def test_each_part_that_is_killed_comes_back_and_no_job_is_lost(up: Up) -> None:
    await asyncio.to_thread(up.wait_until_ready)
    made: list[str] = []
    for number, (name, program) in enumerate(PARTS.items()):
        async with accepted_jobs(up, JOBS * number) as ids:
            family = up.part(program).children(recursive=True)
            up.part(program).kill()
            await asyncio.to_thread(up.wait_until_said, f"The {name} fell by SIGKILL")
            made += ids
        assert await asyncio.to_thread(alive_after_a_while, family) == []
    async with AsyncClient(up.url) as client:
        page = [pair.pair_id async for pair in client.pairs(RUN)]
        outcomes = [(await client.job(job_id)).result for job_id in made]
    pairs = [p.pair_id for o in outcomes for p in getattr(o, "pairs", [])]
    assert sorted(page) == sorted(pairs)
    assert pairs
    family = up.family()
    up.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(up.process.wait, 90) == 0
    assert await asyncio.to_thread(alive_after_a_while, family) == []


def test_ctrl_c_while_a_part_waits_for_its_start(up: Up) -> None:
    up.wait_until_ready()
    family = up.family()
    for fall in (1, 2, 3):
        up.part("serve").kill()
        up.wait_until_said("The service fell", fall)
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(90) == 0, up.said.read_text()
    assert alive_after_a_while(family) == []


def test_a_part_that_falls_again_and_again_is_given_up_and_all_ends(up: Up) -> None:
    up.wait_until_ready()
    family = up.family()
    for _ in range(5):
        part = up.part("serve")
        family.append(part)
        part.kill()
        psutil.wait_procs([part], 60)
    assert up.process.wait(120) == 2
    said = up.said.read_text()
    assert "The service fell 5 times in a row, the last time by SIGKILL, and is given up." in said
    assert str(up.data / "service.log") in said
    assert alive_after_a_while(family) == []


@pytest.mark.timeout(600)
def test_a_worker_that_cannot_start_is_given_up_with_its_last_words(
    model: Path, tmp_path: Path
) -> None:
    up = Up(model, tmp_path / "data", PREFSTREAM_WORKER_ENGINE_ARGS='{"no_such_setting": 1}')
    try:
        assert up.process.wait(500) == 2
        said = " ".join(up.said.read_text().split())
        assert said.count("The worker fell with status 1 (") == 4
        assert "The worker fell 5 times in a row" in said
        assert "TypeError" in said
        assert "no_such_setting" in said
    finally:
        up.close()
