"""The closed loop on the toy model, while trainer, worker and service are killed in the middle.

Pairs of several versions are trained on in the order of the run's log, none too stale, none lost
and none twice.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from itertools import count, pairwise
from pathlib import Path

import pytest

from service.client import AsyncClient, image_data
from service.schemas import BdhsRequest, Job, JobStatus, RunSettings
from tests.servers import Server, free_port
from trainer.stream import journal
from trainer.toy.dataset import examples, png

RUN = "loop"
STEPS, BATCH, PUBLISH_EVERY = 16, 4, 2
WINDOW, MAX_STALENESS = 12, 3

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "PREFSTREAM_LEASE_S": "10",
    "PREFSTREAM_WORKER_EMBEDDER": "embedded",
    "PREFSTREAM_WORKER_ENFORCE_EAGER": "1",
    "PREFSTREAM_WORKER_DTYPE": "float32",
    "PREFSTREAM_WORKER_GPU_MEMORY_UTILIZATION": "0.1",
    "PREFSTREAM_WORKER_MAX_LORA_RANK": "8",
    "PREFSTREAM_TRAINER_BATCH_SIZE": str(BATCH),
    "PREFSTREAM_TRAINER_PUBLISH_EVERY": str(PUBLISH_EVERY),
    "PREFSTREAM_TRAINER_CHECKPOINT_EVERY": "2",
    "PREFSTREAM_TRAINER_LEASE_S": "5",
}

LEARNING = {
    "lora": {
        "PREFSTREAM_TRAINER_TRAIN": "lora",
        "PREFSTREAM_TRAINER_LORA_RANK": "8",
        "PREFSTREAM_TRAINER_LORA_ALPHA": "16",
        "PREFSTREAM_TRAINER_LEARNING_RATE": "1e-3",
    },
    "full": {
        "PREFSTREAM_TRAINER_TRAIN": "full",
        "PREFSTREAM_TRAINER_LEARNING_RATE": "2e-5",
    },
}


class Part:
    """One command of prefstream, which can be killed and started again."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], folder: Path):
        self._command = [sys.executable, "-m", "service", *arguments]
        self._environment = environment
        self.log = folder / f"{name}.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Parts:
    """Server, service, worker and trainer, each a process."""

    def __init__(self, server: Server, folder: Path, learning: str):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.output = folder / "train"
        environment = {
            **os.environ,
            **ENVIRONMENT,
            **LEARNING[learning],
            "PREFSTREAM_REDIS_URL": server.url,
        }
        train = [
            *("train", "--url", server.url, "--run", RUN, "--model", "toy"),
            *("--output", str(self.output), "--steps", str(STEPS)),
        ]
        self.service = Part("service", ["serve", "--port", str(port)], environment, folder)
        self.worker = Part("worker", ["work", "--model", "toy"], environment, folder)
        self.trainer = Part("trainer", train, environment, folder)

    @property
    def all(self) -> tuple[Part, Part, Part]:
        return self.service, self.worker, self.trainer

    def steps(self) -> int:
        return max((step for step, _ in journal.read(self.output)), default=0)


@pytest.fixture(params=LEARNING)
async def parts(
    request: pytest.FixtureRequest, own_server: Server, tmp_path: Path
) -> AsyncIterator[Parts]:
    parts = Parts(own_server, tmp_path, request.param)
    yield parts
    for part in parts.all:
        part.end()


async def until(condition: Callable[[], bool], parts: Parts) -> None:
    async with asyncio.timeout(300):
        while not condition():
            if parts.trainer.process.poll():
                raise AssertionError(parts.trainer.log.read_text())
            await asyncio.sleep(0.05)


@pytest.mark.timeout(800)
async def test_the_loop_survives_the_death_of_every_part(parts: Parts) -> None:
    items = examples(64, seed=1)
    async with AsyncClient(parts.url, retry_for_s=3600) as client:
        await client.put_run(
            RUN, RunSettings(window=WINDOW, max_staleness=MAX_STALENESS, stale="drop")
        )
        numbers = count()
        jobs: list[Job] = []

        async def make() -> None:
            while True:
                number = next(numbers)
                item = items[number % len(items)]
                request = BdhsRequest(
                    prompt=item.prompt,
                    images=[image_data(png(item))],
                    reference=item.reference,
                    rho=0.9,
                    max_tokens=48,
                    seed=number,
                    run=RUN,
                )
                jobs.append(await client.wait((await client.bdhs(request)).id))

        making = asyncio.gather(*(make() for _ in range(WINDOW)))
        try:
            await until(lambda: parts.steps() >= 3, parts)  # the first version is out
            parts.trainer.kill()
            parts.trainer.start()
            parts.worker.kill()
            parts.worker.start()
            await until(lambda: parts.steps() >= 9, parts)
            parts.service.kill()
            parts.service.start()
            await until(lambda: parts.trainer.process.poll() == 0 or making.done(), parts)
        finally:
            making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert {job.status for job in jobs} == {JobStatus.succeeded}
        async with asyncio.timeout(120):
            while (run := await client.run(RUN)).open_jobs:
                await asyncio.sleep(0.1)

        made = [pair async for pair in client.pairs(RUN)]
        place = {pair.pair_id: number for number, pair in enumerate(made)}
        assert len(place) == len(made)
        used = [pair for _, step in journal.read(parts.output) for pair in step]
        assert len(used) == STEPS * BATCH

        # In the log's order; what a killed trainer held may come late, once.
        places = [place[pair] for pair in used]
        assert sum(later < earlier for earlier, later in pairwise(places)) <= 1
        # None twice, and none lost: what was passed over was too stale.
        assert len(set(used)) == len(used)
        [group] = run.groups
        assert max(places) + 1 - len(used) <= group.stale
        assert group.acknowledged == len(used)
        kept = group.acknowledged + group.stale + group.waiting + group.returned + group.leased
        assert kept == len(made)
        # Of several versions, and never of one that was too old when it was leased.
        assert len({made[number].rejected_version for number in places}) >= 3
        state = parts.output / f"checkpoint-{STEPS}" / "trainer_state.json"
        lags = [row["pairs/staleness_max"] for row in json.loads(state.read_text())["log_history"]]
        assert len(lags) == STEPS
        assert 0 < max(lags) <= MAX_STALENESS

        weights = await client.weights(wait_s=60)
        assert weights.newest is not None
        assert weights.newest.version >= STEPS // PUBLISH_EVERY
        weights = await client.weights(settled=weights.newest.version, wait_s=60)
        assert weights.refused == []
        assert [w.weight_version for w in weights.workers] == [weights.newest.version]
