"""A worker that needs no model, made to be killed.

    python -m tests.faults.stub_worker WORKER_ID      (settings from the environment)

Jobs say in their metadata where their first attempt shall end: `die` names the step at which the
worker kills itself, or `freeze`, at which it stops itself until somebody continues it.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.broker import UNAVAILABLE, Broker, Claim
from service.schemas import BdhsRequest, JobError, SampleResult
from service.settings import Settings
from tests.service.samples import PAIRS, bdhs_result

T = TypeVar("T")
SLOTS = 8


class StubWorker:
    def __init__(self, broker: Broker, worker_id: str) -> None:
        self._broker = broker
        self._id = worker_id
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._changed = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        loops = [asyncio.create_task(self._claim()), asyncio.create_task(self._renew())]
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({stop, *loops}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            raise RuntimeError("a loop ended") from next(
                loop.exception() for loop in loops if loop.done()
            )
        loops[0].cancel()
        await asyncio.gather(loops[0], return_exceptions=True)
        for task, claim in list(self._running.items()):
            task.cancel()
            await reach(lambda c=claim: self._broker.claims.release(c))
        loops[1].cancel()

    async def _claim(self) -> None:
        while True:
            free = SLOTS - len(self._running)
            if not free:
                self._changed.clear()
                await self._changed.wait()
                continue
            for claim in await reach(
                lambda n=free: self._broker.claims.claim(self._id, n, block_s=2)
            ):
                at("claimed", claim)
                task = asyncio.create_task(self._work_on(claim))
                self._running[task] = claim
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._changed.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._broker.connection.settings.lease_s / 3)
            claims = list(self._running.values())
            lost = await reach(lambda c=claims: self._broker.claims.renew(c))
            for task, claim in list(self._running.items()):
                if claim.job_id in lost:
                    task.cancel()

    async def _work_on(self, claim: Claim) -> None:
        claims, ends = self._broker.claims, claim.request.metadata.get("ends", "succeeded")
        await asyncio.sleep(random.uniform(0, 0.05))
        await reach(lambda: claims.progress(claim, {"half": True}))
        at("working", claim)
        error = JobError(code=str(ends), message="As asked.")
        if ends == "failed":
            await reach(lambda: claims.fail(claim, error))
        elif ends == "dead":
            await reach(lambda: claims.retry(claim, error, give_up=claim.attempt >= 2))
        elif isinstance(claim.request, BdhsRequest):
            await reach(lambda: self._broker.images.get(claim.request.images[0]))
            at("finishing", claim)
            fields = PAIRS[str(claim.request.metadata.get("outcome", "pair"))]
            await reach(lambda: claims.finish(claim, bdhs_result(claim, **fields)))
        else:
            at("finishing", claim)
            await reach(lambda: claims.finish(claim, SampleResult(responses=[], seed=0)))
        at("finished", claim)


def at(step: str, claim: Claim) -> None:
    """The named steps. Only the first attempt meets its end here."""
    if claim.attempt == 1 and claim.request.metadata.get("die") == step:
        os.kill(os.getpid(), signal.SIGKILL)
    if claim.attempt == 1 and claim.request.metadata.get("freeze") == step:
        os.kill(os.getpid(), signal.SIGSTOP)


async def reach(call: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await call()
        except UNAVAILABLE:
            await asyncio.sleep(0.1)


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with Broker.connect(Settings()) as broker:
        await StubWorker(broker, sys.argv[1]).run(stopping)


if __name__ == "__main__":
    asyncio.run(main())
