"""Pairs of other tokens or pixels than the trainer's are refused, and nothing is lost."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from service.broker import Broker
from service.client import Client
from service.schemas import InputDigest, WorkerInfo
from service.settings import Settings
from tests.servers import Server
from tests.trainer import pairs
from tests.trainer.conftest import Configure
from tests.trainer.test_train import inputs_of
from trainer.stream.inputs import DifferentInputs, check_digest
from trainer.train import train

OTHER = InputDigest(chat_template="0" * 16, tokenizer="0" * 16, processor="0" * 16)


def announce(server: Server, digest: InputDigest | None) -> None:
    """A worker's heartbeat."""

    async def beat() -> None:
        settings = Settings(redis_url=server.url)  # pyright: ignore[reportArgumentType]
        async with Broker.connect(settings) as broker:
            await broker.workers.heartbeat(
                WorkerInfo(
                    id="w",
                    model="m",
                    weight_version=0,
                    slots=1,
                    running=0,
                    engine_ready=True,
                    heartbeat_at=datetime.now(UTC),
                    input_digest=digest,
                )
            )

    asyncio.run(beat())


def test_a_worker_with_another_template_is_named_at_the_start(
    server: Server, configure: Configure
) -> None:
    settings = configure(steps=1)
    ours = inputs_of(settings).digest
    announce(server, ours.model_copy(update={"chat_template": "0" * 16}))
    with pytest.raises(
        DifferentInputs, match="Worker w makes pairs with another chat template than"
    ):
        train(settings, threading.Event())


def test_pairs_of_other_inputs_are_refused_and_handed_back(
    server: Server, configure: Configure
) -> None:
    pairs.append(server.url, 4, input_digest=OTHER)
    with pytest.raises(DifferentInputs, match="another tokenizer") as refused:
        train(configure(steps=1, lease_s=600), threading.Event())
    assert "`mm_processor_kwargs`" in str(refused.value)
    with Client(server.url) as client:
        again = client.lease(pairs.RUN, group="trainer", size=4, lease_s=60, wait_s=10)
    assert again is not None
    assert len(again.pairs) == 4


def test_pairs_of_the_same_inputs_and_of_older_releases_are_trained_on(
    server: Server, configure: Configure
) -> None:
    settings = configure(steps=2)
    announce(server, inputs_of(settings).digest)
    pairs.append(server.url, 4, input_digest=inputs_of(settings).digest)
    pairs.append(server.url, 4, start=4)
    assert train(settings, threading.Event()).step == 2


def test_a_pair_that_cannot_be_rendered_is_left_out(server: Server, configure: Configure) -> None:
    """Its text would stand for an image that is not there."""
    pairs.append(server.url, 4, reference="An <image> of a dog.")
    pairs.append(server.url, 4, start=4)
    assert train(configure(steps=1), threading.Event()).step == 1


def test_what_differs_is_named() -> None:
    ours = InputDigest(chat_template="a", tokenizer="b", processor="c")
    check_digest(ours, None, "Pair p was made")
    check_digest(ours, ours.model_copy(), "Pair p was made")
    with pytest.raises(DifferentInputs, match="another processor than") as refused:
        check_digest(ours, ours.model_copy(update={"processor": "d"}), "Pair p was made")
    assert "tokenizer" not in str(refused.value)
