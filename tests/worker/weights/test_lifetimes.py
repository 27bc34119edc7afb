"""A version's files and its place in the engine last as long as somebody uses them, whatever comes
and goes meanwhile: adoptions, jobs that name older versions, withdrawals, a store that forgets."""

import asyncio
import random
from pathlib import Path

from service.broker import Broker
from service.schemas import SampleRequest, WeightVersion
from service.settings import Settings
from service.weight_store import WeightStore
from tests.waiting import until
from tests.worker.adapters import make_adapter
from tests.worker.jobs import bdhs, ended, submit, working
from tests.worker.oracle import Written, generate, random_image
from tests.worker.weights import full_weights
from worker.embedder import Embedder
from worker.engine import Engine
from worker.main import Worker
from worker.weights.versions import VersionGone, WeightVersions

IMAGE = random_image(80, 60, 9)
VERSIONS = 6


def publish(engine: Engine, store: WeightStore, folder: Path, number: int) -> WeightVersion:
    made = make_adapter(engine.model, folder / f"adapter-{number}", seed=number)
    return store.publish(made, number, "lora")


async def write(engine: Engine, lora: object) -> Written:
    return (await generate(engine, "Describe.", IMAGE, corruption=None, lora=lora))[0]


async def test_jobs_of_all_versions_run_while_versions_come_and_go(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    """More versions than fit, named at random, while each is adopted; the store forgets the first
    two on the way. Whoever gets a version gets its words; the engine outlives all of it."""
    published = {n: publish(engine, store, tmp_path, n) for n in range(1, VERSIONS + 1)}
    expected = {0: await write(engine, None)}
    alone = WeightVersions(engine)
    for number, version in published.items():
        async with alone.use_version(number, version) as lora:
            expected[number] = await write(engine, lora)
    for number in published:
        await engine.remove_lora(number)
    alone.close()
    assert len({tuple(w.logprobs) for w in expected.values()}) == VERSIONS + 1

    chance = random.Random(5)
    stopping = False
    written = [0] * (VERSIONS + 1)
    gone: dict[int, str] = {}

    async def ask() -> None:
        while not stopping:
            number = chance.choice([versions.current, chance.randint(0, VERSIONS)])
            try:
                async with versions.use_version(number, published.get(number)) as lora:
                    assert (await write(engine, lora)).token_ids == expected[number].token_ids
                    written[number] += 1
            except VersionGone as error:
                gone[number] = str(error)

    async def more_answers() -> None:
        enough = sum(written) + 30
        async with asyncio.timeout(120):
            while sum(written) < enough and not any(task.done() for task in asking):
                await asyncio.sleep(0.005)

    asking = [asyncio.create_task(ask()) for _ in range(5)]
    for number, version in published.items():
        await more_answers()
        await versions.adopt(version)
        assert versions.current == number
        if number == 3:
            store.keep_newest(VERSIONS - 2)
    await more_answers()
    stopping = True
    await asyncio.gather(*asking)
    assert engine.alive
    assert all(written), written
    assert gone.keys() <= {1, 2}
    assert all("no longer stored" in reason for reason in gone.values())
    await versions.wait_for_room()
    folders = list((versions._folder).iterdir())
    assert len(folders) == 1, "files of versions that nobody uses are left"


async def test_a_version_that_is_dropped_just_now_is_fetched_anew(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    one, two = (publish(engine, store, tmp_path, n) for n in (1, 2))
    await versions.adopt(one)
    expected = await write(engine, versions.lora_request(1))
    adopting = asyncio.create_task(versions.adopt(two))
    while versions.current == 1:  # and then 1 is about to go
        await asyncio.sleep(0)
    async with versions.use_version(1, one) as lora:
        assert await write(engine, lora) == expected
    await adopting


# --- withdrawn versions ---


async def serving(worker: Worker, number: int) -> None:
    async def there() -> bool:
        return worker.versions.current == number

    await until(there, 60)


async def test_a_worker_goes_back_when_what_it_serves_is_withdrawn(
    settings: Settings, engine: Engine, embedder: Embedder, store: WeightStore, tmp_path: Path
) -> None:
    published = {n: publish(engine, store, tmp_path, n) for n in (1, 2, 4)}
    gone = published[2].model_copy(update={"version": 3})  # whose manifest is not version 3's
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        await broker.weights.announce(published[1])
        await serving(worker, 1)
        await broker.weights.announce(published[2])
        await serving(worker, 2)
        await broker.weights.announce(gone)
        assert await broker.weights.wait_adopted(3, 60)
        await broker.weights.announce(published[4])
        await serving(worker, 4)
        long = await submit(broker, lambda _: SampleRequest(prompt="Say.", max_tokens=300))
        while not worker.running:
            await asyncio.sleep(0.005)
        await broker.weights.withdraw(4)
        await serving(worker, 2)  # not 3, which it has refused
        job = await ended(broker, await submit(broker, bdhs()))
        assert job.result.pairs[0].rejected_version == 2
        [span] = (await ended(broker, long)).result.responses[0].weight_versions
        assert span.version == 4, "a job keeps the version that it began with"
        await broker.weights.withdraw(2)
        await serving(worker, 1)
        named = await ended(broker, await submit(broker, bdhs(weight_version=4)))
        assert (named.error.code, named.attempt) == ("version_gone", 1)
        await broker.weights.withdraw(1)
        await serving(worker, 0)
        job = await ended(broker, await submit(broker, bdhs()))
        assert job.result.pairs[0].rejected_version == 0
        assert [w.weight_version for w in (await broker.weights.state()).workers] == [0]
    for number in published:
        await engine.remove_lora(number)


async def test_a_version_that_is_withdrawn_while_it_is_loaded_does_not_stay(
    settings: Settings, engine: Engine, embedder: Embedder, store: WeightStore, tmp_path: Path
) -> None:
    one, two = (publish(engine, store, tmp_path, n) for n in (1, 2))
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        await broker.weights.announce(one)
        await serving(worker, 1)
        await broker.weights.announce(two)

        def has_its_files() -> bool:
            return any(p.name.startswith("2-") for p in worker.versions._folder.iterdir())

        while not has_its_files():
            await asyncio.sleep(0)
        await broker.weights.withdraw(2)

        async def settled() -> bool:
            [said] = (await broker.weights.state()).workers
            current = worker.versions.current
            return (said.weight_version, current) == (1, 1) and not has_its_files()

        await until(settled)
        job = await ended(broker, await submit(broker, bdhs()))
        assert job.result.pairs[0].rejected_version == 1
    for number in (1, 2):
        await engine.remove_lora(number)


async def test_full_weights_that_are_withdrawn_leave_those_before_and_then_the_model(
    settings: Settings, engine: Engine, embedder: Embedder, store: WeightStore, tmp_path: Path
) -> None:
    before = await full_weights.write(engine)
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        written: list[Written] = []
        for number in (1, 2):
            await broker.weights.announce(full_weights.publish(engine, store, tmp_path, number))
            await serving(worker, number)
            written.append(await full_weights.write(engine))
        await broker.weights.withdraw(2)
        await serving(worker, 1)
        full_weights.assert_same(await full_weights.write(engine), written[0])
        await broker.weights.withdraw(1)
        await serving(worker, 0)
        full_weights.assert_same(await full_weights.write(engine), before)
