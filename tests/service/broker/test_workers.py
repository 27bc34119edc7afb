"""One namespace serves one model: who may register beside the workers that live."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from service.broker import Broker, ModelConflict
from service.schemas import InputDigest, WorkerInfo
from service.settings import Settings
from tests.waiting import until

DIGEST = InputDigest(chat_template="c1", tokenizer="t1", processor="p1")


def info(worker_id: str, model: str = "llava-a", **digests: str) -> WorkerInfo:
    return WorkerInfo(
        id=worker_id,
        model=model,
        weight_version=0,
        slots=1,
        running=0,
        engine_ready=True,
        heartbeat_at=datetime.now(UTC),
        input_digest=DIGEST.model_copy(update=digests),
    )


async def registered(broker: Broker) -> list[str]:
    return [worker.id for worker in await broker.workers.all()]


async def test_workers_of_one_model_come_and_go(broker: Broker) -> None:
    await broker.workers.check("llava-a", DIGEST)
    for name in ("a", "b", "a"):
        await broker.workers.heartbeat(info(name))
    await broker.workers.check("llava-a", DIGEST)
    assert [w.input_digest for w in await broker.workers.all()] == [DIGEST, DIGEST]
    for name in ("a", "b"):
        await broker.workers.unregister(name)
    await broker.workers.check("llava-b", DIGEST)
    await broker.workers.heartbeat(info("c", "llava-b"))
    assert await registered(broker) == ["c"]


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (info("b", "llava-b"), "model"),
        (info("b", chat_template="c2"), "chat_template"),
        (info("b", tokenizer="t2"), "tokenizer"),
        (info("b", "llava-b", chat_template="c2", processor="p2"), "model, chat_template, proc"),
    ],
)
async def test_another_model_is_refused_with_what_differs(
    broker: Broker, other: WorkerInfo, differs: str
) -> None:
    await broker.workers.heartbeat(info("a"))
    assert other.input_digest
    refused: list[str] = []
    for call in (
        broker.workers.check(other.model, other.input_digest),
        broker.workers.heartbeat(other),
    ):
        with pytest.raises(ModelConflict, match=f"these differ in: {differs}") as error:
            await call
        refused.append(str(error.value))
    assert await registered(broker) == ["a"]
    ttl_s = broker.connection.settings.worker_ttl_s
    for message in refused:
        assert f"for {other.model}, and worker a of the namespace 'prefstream'" in message
        assert "serves llava-a" in message
        assert "--namespace" in message
        assert f"forgotten in {ttl_s:.0f} s" in message
    await broker.workers.heartbeat(info("a"))  # who was first stays


async def test_of_many_at_once_only_one_model_gets_in(settings: Settings) -> None:
    async with Broker.connect(settings) as first, Broker.connect(settings) as second:
        outcomes = await asyncio.gather(
            *(
                broker.workers.heartbeat(info(f"{model}{i}", model))
                for i in range(8)
                for broker, model in ((first, "a"), (second, "b"))
            ),
            return_exceptions=True,
        )
        models = [worker.model for worker in await first.workers.all()]
    assert [type(e) for e in outcomes if e is not None] == [ModelConflict] * 8
    assert models in (["a"] * 8, ["b"] * 8)


async def test_a_worker_of_an_older_release_is_compared_by_its_model_alone(broker: Broker) -> None:
    old = info("old").model_copy(update={"input_digest": None})
    # As it says it itself: without the field, or (told by a service of today) with null.
    for text in (old.model_dump_json(exclude={"input_digest"}), old.model_dump_json()):
        await broker.connection.redis.set(broker.connection.key("worker", "old"), text, px=60_000)
        await broker.connection.redis.zadd(broker.connection.key("workers"), {"old": 2**41})
        await broker.workers.check("llava-a", DIGEST)
        with pytest.raises(ModelConflict, match=r"these differ in: model\. "):
            await broker.workers.check("llava-b", DIGEST)
    await broker.workers.heartbeat(info("new"))
    await broker.workers.unregister("new")
    with pytest.raises(ModelConflict, match="and worker old"):
        await broker.workers.heartbeat(info("new", "llava-b"))
    other = info("new", "llava-b")
    await broker.workers.unregister("old")
    await broker.workers.heartbeat(other)
    with pytest.raises(ModelConflict):
        await broker.workers.heartbeat(old)


async def test_namespaces_do_not_see_each_other(broker: Broker, settings: Settings) -> None:
    await broker.workers.heartbeat(info("a"))
    elsewhere = settings.model_copy(update={"namespace": "other"})
    async with Broker.connect(elsewhere) as other:
        await other.workers.check("llava-b", DIGEST)
        await other.workers.heartbeat(info("b", "llava-b"))
    await broker.workers.heartbeat(info("a"))


async def test_silence_leaves_the_namespace_to_another_model(
    broker: Broker, settings: Settings
) -> None:
    async with Broker.connect(settings.model_copy(update={"worker_ttl_s": 0.2})) as short:
        await short.workers.heartbeat(info("a"))
        await until(lambda: _may_start(broker, "llava-b"))
        await broker.workers.heartbeat(info("b", "llava-b"))
        with pytest.raises(ModelConflict, match="worker b"):
            await short.workers.heartbeat(info("a"))
    assert await registered(broker) == ["b"]


async def _may_start(broker: Broker, model: str) -> Any:
    try:
        await broker.workers.check(model, DIGEST)
    except ModelConflict:
        return False
    return True
