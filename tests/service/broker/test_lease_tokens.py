"""Leases by the token of their caller: asked for again, given back, left."""

import asyncio

import pytest

from service.broker import Broker, LeaseLost
from service.schemas import RunSettings
from tests.service.broker.leasing import group, ids, lease, must_lease
from tests.service.samples import append
from tests.waiting import until


async def test_the_same_token_is_the_same_lease(broker: Broker) -> None:
    pairs = await append(broker, 6)
    other = await must_lease(broker)
    first = await must_lease(broker, token="mine", lease_s=5)
    await broker.batches.nack("r", other.lease)  # to be delivered before anything else
    for _ in range(3):
        again = await must_lease(broker, token="mine", size=1)
        assert (again.lease, again.pairs) == (first.lease, first.pairs)
        assert again.deliveries == first.deliveries
        assert again.expires_at > first.expires_at
    assert ids(await must_lease(broker)) == pairs[:2]
    await broker.batches.ack("r", first.lease)
    await append(broker, 2)
    with pytest.raises(LeaseLost, match="mine"):
        await lease(broker, token="mine")
    assert (await group(broker)).leased == 2


async def test_a_lease_with_a_token_that_ran_out_begins_anew(broker: Broker) -> None:
    pairs = await append(broker, 2)
    await must_lease(broker, token="mine", lease_s=0.001)
    await asyncio.sleep(0.002)  # the lease
    assert ids(await must_lease(broker, token="mine")) == pairs, "as long as nobody noticed"
    await must_lease(broker, token="mine", lease_s=0.001)
    await asyncio.sleep(0.002)  # the lease
    taken = await must_lease(broker)
    assert ids(taken) == pairs
    assert await lease(broker, token="mine") is None
    await broker.batches.nack("r", taken.lease)
    assert ids(await must_lease(broker, token="mine")) == pairs


async def test_a_lease_asked_for_again_leaves_out_what_retention_took(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(retention=2))
    await append(broker, 2)
    await must_lease(broker, token="mine")
    [_, *pairs] = await append(broker, 3)
    assert ids(await must_lease(broker, token="mine")) == pairs, "all it held was trimmed"
    await append(broker, 1)
    assert ids(await must_lease(broker, token="mine")) == pairs[1:]


@pytest.mark.parametrize("given", [True, False], ids=["given", "on its way"])
async def test_a_released_token_gets_nothing(broker: Broker, given: bool) -> None:
    pairs = await append(broker, 2)
    if given:
        await must_lease(broker, token="mine")
    await broker.batches.release("r", "trainer", "mine")
    with pytest.raises(LeaseLost):
        await lease(broker, token="mine")
    assert ids(await must_lease(broker)) == pairs
    await broker.batches.release("nowhere", "trainer", "mine")


async def test_a_cancelled_lease_holds_nothing(broker: Broker) -> None:
    pairs = await append(broker, 2)
    for steps in range(60):
        call = asyncio.create_task(must_lease(broker, wait_s=30))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})
        if not call.cancelled():
            await broker.batches.nack("r", call.result().lease)
        run = await broker.runs.get("r")
        assert run
        assert all(group.leased == 0 for group in run.groups), f"after {steps} steps"
    assert ids(await must_lease(broker)) == pairs


async def test_who_asks_again_keeps_what_an_abandoned_call_leased(broker: Broker) -> None:
    """A proxy cuts a call, its caller repeats it, and only then the first call is given up."""
    pairs = await append(broker, 2)
    first = asyncio.create_task(must_lease(broker, token="mine", size=3, wait_s=30))
    await until(lambda: _has_group(broker))
    assert ids(await must_lease(broker, token="mine")) == pairs
    first.cancel()
    await asyncio.wait({first})
    assert (await group(broker)).leased == 2


async def _has_group(broker: Broker) -> bool:
    run = await broker.runs.get("r")
    return bool(run and run.groups)
