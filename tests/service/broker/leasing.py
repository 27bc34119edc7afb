"""Batches of the run `r`, for tests."""

from service.broker import Broker
from service.schemas import Batch, Group, LeaseRequest

LEASE = LeaseRequest(size=2)


async def lease(broker: Broker, **fields: object) -> Batch | None:
    return await broker.batches.lease("r", LEASE.model_copy(update=fields))


async def must_lease(broker: Broker, **fields: object) -> Batch:
    batch = await lease(broker, **fields)
    assert batch is not None
    return batch


async def group(broker: Broker) -> Group:
    run = await broker.runs.get("r")
    assert run
    return run.groups[0]


def ids(batch: Batch) -> list[str]:
    return [pair.pair_id for pair in batch.pairs]
