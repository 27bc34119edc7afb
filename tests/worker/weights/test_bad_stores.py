"""What a weight store does wrong, a worker says, and goes on with the weights that it has."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from service.broker import Broker
from service.schemas import WeightVersion
from service.settings import Settings
from service.weight_store import MANIFEST, WeightStore
from tests.service.samples import weight_version
from tests.waiting import until
from tests.worker.adapters import make_adapter
from tests.worker.jobs import bdhs, ended, submit, working
from worker.embedder import Embedder
from worker.engine import Engine

ENDS_THOUGH_A_STORE_HANGS = """
import asyncio, sys
from pathlib import Path
from service.schemas import WeightVersion
from service.weight_store import BadWeights
from worker.weights.fetching import fetch_within

async def main():
    version = WeightVersion.model_validate_json(sys.argv[1])
    try:
        await fetch_within(0.2, version, Path(sys.argv[2]))
    except BadWeights as error:
        print(error)

asyncio.run(main())
"""


def hanging(published: WeightVersion, file: str) -> WeightVersion:
    """Reading the file waits for ever, as on a network disk whose server is gone."""
    path = Path(published.location.removeprefix("file://")) / file
    path.unlink()
    os.mkfifo(path)
    return published


def elsewhere(number: int, location: str) -> WeightVersion:
    return weight_version(number).model_copy(update={"location": location})


async def test_a_worker_refuses_with_the_reason_and_goes_on(
    settings: Settings, engine: Engine, embedder: Embedder, tmp_path: Path
) -> None:
    store = WeightStore(str(tmp_path / "store"))
    adapter = make_adapter(engine.model, tmp_path / "adapter", seed=1)
    deep = make_adapter(engine.model, tmp_path / "deep", seed=1)
    (deep / "adapter_config.json").write_text("[" * 100_000)
    bad = [
        (elsewhere(1, "http://127.0.0.1:9/weights/1"), "Cannot connect to host 127.0.0.1:9"),
        (elsewhere(2, str(tmp_path / "nowhere")), "no manifest.json"),
        (hanging(store.publish(adapter, 3, "lora"), MANIFEST), "took longer than 2 s"),
        (hanging(store.publish(adapter, 4, "lora"), "adapter_config.json"), "longer than 2 s"),
        (store.publish(deep, 5, "lora"), "it cannot be judged: RecursionError"),
    ]
    async with (
        Broker.connect(settings) as broker,
        working(settings, engine, embedder, fetch_timeout_s=2) as worker,
    ):
        for version, reason in bad:
            await broker.weights.announce(version)
            state = await broker.weights.wait_adopted(version.version, 60)
            assert state is not None
            [said] = [r for r in state.refused if r.version == version.version]
            assert (said.worker_id, reason in said.reason) == (worker.id, True), said.reason
            assert worker.versions.current == 0
        # What a release of the service that knew no better has announced.
        foreign = elsewhere(6, "foo://bucket/6").model_dump_json()
        key = broker.connection.key("weights")
        await broker.connection.redis.hset(key, mapping={"newest": 6, "announced": foreign})

        async def refused() -> bool:
            return any("foo://" in r.reason for r in (await broker.weights.state()).refused)

        await until(refused)
        await broker.weights.announce(store.publish(adapter, 7, "lora"))
        assert await broker.weights.wait_adopted(7, 60)
        job = await ended(broker, await submit(broker, bdhs()))
    assert job.result.pairs[0].rejected_version == 7
    await engine.remove_lora(7)


async def test_a_process_ends_though_a_store_hangs(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a").write_text("a")
    for file in (MANIFEST, "a"):
        published = WeightStore(str(tmp_path / "store")).publish(tmp_path / "made", 1, "full")
        version = hanging(published, file).model_dump_json()
        command = [sys.executable, "-c", ENDS_THOUGH_A_STORE_HANGS, version, str(tmp_path / "mine")]
        ended = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=120, check=True
        )
        assert "took longer than 0.2 s" in ended.stdout
