"""From a trainer's publisher through a bucket to a worker, and back when a version is withdrawn."""

import asyncio
import threading
from pathlib import Path

from service.broker import Broker
from service.client import Client
from service.settings import Settings
from service.weight_store import WeightStore
from tests.buckets import bucket as bucket
from tests.buckets import s3_server as s3_server
from tests.servers import Server
from tests.waiting import until
from tests.worker.adapters import make_adapter
from tests.worker.jobs import bdhs, ended, submit, working
from trainer.waiting import Waiter
from trainer.weights.publish import Publisher
from worker.embedder import Embedder
from worker.engine import Engine


async def test_a_worker_adopts_from_a_bucket_and_goes_back(
    settings: Settings,
    server: Server,
    engine: Engine,
    embedder: Embedder,
    bucket: str,
    tmp_path: Path,
) -> None:
    def publish(number: int) -> None:
        made = make_adapter(engine.model, tmp_path / f"{number}", seed=number)
        with Client(server.url) as client:
            Publisher(
                client,
                Waiter(threading.Event()),
                WeightStore(f"s3://{bucket}/weights"),
                run="r",
                version=number - 1,
                keep=2,
                wait="all",
                wait_s=60,
            ).publish(made, step=number)

    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        await until(broker.workers.all)
        for number in (1, 2):
            await asyncio.to_thread(publish, number)
            assert worker.versions.current == number
            job = await ended(broker, await submit(broker, bdhs()))
            assert job.result.pairs[0].rejected_version == number
        await broker.weights.withdraw(2)

        async def back() -> bool:
            return worker.versions.current == 1

        await until(back, 60)
        job = await ended(broker, await submit(broker, bdhs()))
        assert job.result.pairs[0].rejected_version == 1
        assert (await broker.weights.state()).refused == []
    for number in (1, 2):
        await engine.remove_lora(number)
