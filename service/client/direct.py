"""The same calls without the HTTP face between, on the same jobs and leases.

Imported by who names a Redis alone: it needs the server's libraries.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from service import problems
from service.addresses import check_redis_url
from service.broker import UNAVAILABLE, Broker, BrokerError
from service.client.errors import error_of, unreachable
from service.client.retrying import retry
from service.intake import Intake
from service.schemas import (
    Appended,
    Batch,
    FilteredPage,
    Health,
    Job,
    JobRequest,
    JobsPage,
    JobsState,
    LeaseRequest,
    NamespaceSettings,
    PairRequest,
    PairsPage,
    Run,
    RunSettings,
    StoredImage,
    Weights,
    WeightVersion,
)
from service.settings import Settings

T = TypeVar("T")


class RedisTransport:
    """The same calls without the HTTP face between, on the same jobs and leases."""

    def __init__(self, url: str, namespace: str | None, retry_for_s: float) -> None:
        check_redis_url(url)
        settings = Settings.model_validate(
            {"redis_url": url} | ({"namespace": namespace} if namespace else {})
        )
        # It goes by what service and workers agreed on; of its own it leaves them nothing.
        self._broker = Broker.connect(settings, founds=False)
        self._intake = Intake(self._broker)
        self._retry_for_s = retry_for_s

    async def submit(self, request: JobRequest, wait_s: float, key: str) -> Job:
        async def enqueue() -> Job:
            jobs = self._broker.jobs
            stored = await self._intake.request(request, lambda: jobs.check_room(request.run, key))
            return await jobs.enqueue(stored, idempotency_key=key)

        job = await self.job((await self._call(enqueue)).id, wait_s)
        if wait_s > 0 and (problem := problems.job_problem(job)):
            raise error_of(problem)
        return job

    async def job(self, job_id: str, wait_s: float) -> Job:
        job = await self._call(lambda: self._broker.jobs.wait(job_id, wait_s))
        if job is None:
            raise error_of(problems.no_such_job(job_id).problem)
        return job

    async def cancel(self, job_id: str) -> Job:
        await self._call(lambda: self._broker.jobs.cancel(job_id))
        return await self.job(job_id, 0)

    async def jobs(self, state: JobsState, before: str | None, limit: int) -> JobsPage:
        return await self._call(lambda: self._broker.jobs.page(state, before=before, limit=limit))

    async def retry_dead_letter(self, job_id: str) -> Job:
        await self._call(lambda: self._broker.jobs.retry_dead_letter(job_id))
        job = await self.job(job_id, 0)
        if job.ended:
            raise error_of(problems.not_dead(job).problem)
        return job

    async def purge_dead_letters(self) -> int:
        return await self._call(self._broker.jobs.purge_dead_letters)

    async def runs(self) -> list[Run]:
        names = await self._call(self._broker.runs.names)
        return [await self.run(name) for name in names]

    async def put_run(self, name: str, settings: RunSettings) -> Run:
        return await self._call(lambda: self._broker.runs.put(name, settings))

    async def run(self, name: str) -> Run:
        run = await self._call(lambda: self._broker.runs.get(name))
        if run is None:
            raise error_of(problems.no_such_run(name).problem)
        return run

    async def delete_run(self, name: str, force: bool) -> None:
        await self._of_run(
            name, lambda: self._broker.runs.delete(name, force=force), repeated=KeyError
        )

    async def delete_group(self, run: str, group: str) -> None:
        if not await self._call(lambda: self._broker.batches.delete_group(run, group)):
            raise error_of(problems.no_such_group(run, group).problem)

    async def pairs(self, run: str, after: str | None, limit: int) -> PairsPage:
        return await self._of_run(run, lambda: self._broker.runs.pairs(run, after, limit))

    async def filtered(self, run: str, after: str | None, limit: int) -> FilteredPage:
        return await self._of_run(run, lambda: self._broker.runs.filtered(run, after, limit))

    async def append(self, run: str, pair: PairRequest) -> Appended:
        async def append() -> Appended:
            runs = self._broker.runs
            stored = await self._intake.request(pair, lambda: runs.check_room(run, pair.pair_id))
            return await runs.append(run, stored)

        return await self._call(append)

    async def lease(self, run: str, request: LeaseRequest) -> Batch | None:
        return await self._of_run(run, lambda: self._broker.batches.lease(run, request))

    async def release(self, run: str, group: str, token: str) -> None:
        await self._call(lambda: self._broker.batches.release(run, group, token))

    async def ack(self, run: str, lease: str) -> None:
        await self._call(lambda: self._broker.batches.ack(run, lease))

    async def nack(self, run: str, lease: str) -> None:
        await self._call(lambda: self._broker.batches.nack(run, lease))

    async def renew(self, run: str, lease: str, lease_s: float) -> None:
        await self._call(lambda: self._broker.batches.renew(run, lease, lease_s))

    async def announce(self, version: WeightVersion) -> Weights:
        await self._call(lambda: self._broker.weights.announce(version))
        return await self.weights(None, 0)

    async def withdraw(self, version: int) -> Weights:
        if not await self._call(lambda: self._broker.weights.withdraw(version)):
            raise error_of(problems.no_such_version(version).problem)
        return await self.weights(None, 0)

    async def weights(self, settled: int | None, wait_s: float) -> Weights:
        if settled is not None:
            await self._call(lambda: self._broker.weights.wait_adopted(settled, wait_s))
        return await self._call(self._broker.weights.state)

    async def image(self, ref: str) -> bytes:
        return await self._call(lambda: self._broker.images.get(ref))

    async def store_image(self, content: bytes) -> StoredImage:
        return await self._call(lambda: self._intake.store(content))

    async def settings(self) -> NamespaceSettings:
        return (await self._call(lambda: self._broker.settings(fresh=True))).of_namespace()

    async def change_settings(self, changes: NamespaceSettings) -> NamespaceSettings:
        return await self._call(lambda: self._broker.change_settings(changes))

    async def health(self) -> Health:
        workers = await self._call(self._broker.workers.all)
        return Health(status="ok", redis=True, workers=workers)

    async def close(self) -> None:
        await self._broker.close()

    async def _of_run(
        self,
        run: str,
        call: Callable[[], Awaitable[T]],
        *,
        repeated: type[Exception] | None = None,
    ) -> T:
        try:
            return await self._call(call, repeated=repeated)
        except KeyError:
            raise error_of(problems.no_such_run(run).problem) from None

    async def _call(
        self, call: Callable[[], Awaitable[T]], *, repeated: type[Exception] | None = None
    ) -> T:
        """Turns refusals into the errors that the HTTP face would lead to. `repeated`: as of
        `retry`."""

        async def attempt() -> T:
            try:
                return await call()
            except BrokerError as error:
                retry_after_s = getattr(error, "retry_after_s", None)
                raise error_of(problems.broker_problem(error), retry_after_s) from error
            except problems.Refusal as refusal:
                raise error_of(refusal.problem) from refusal
            except UNAVAILABLE as error:
                raise unreachable("the Redis", error) from error

        return await retry(attempt, for_s=self._retry_for_s, repeated=repeated)
