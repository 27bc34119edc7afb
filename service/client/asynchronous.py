"""The client to be awaited."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Self
from weakref import WeakSet

from service.addresses import REDIS_SCHEMES, without_password
from service.client.errors import PrefstreamError, TooManyRequests
from service.client.http import HttpTransport
from service.client.leases import AsyncLeasedBatch, LeaseRenewer
from service.client.transport import LONG_POLL_S, Transport
from service.schemas import (
    Appended,
    BdhsRequest,
    FilteredPage,
    Health,
    Job,
    JobRequest,
    JobsPage,
    JobsState,
    LeaseRequest,
    LogprobsRequest,
    NamespaceSettings,
    Pair,
    PairRequest,
    PairsPage,
    Run,
    RunSettings,
    SampleRequest,
    StoredImage,
    Weights,
    WeightVersion,
)

CANCEL_S = 5.0
"""How long it is tried to undo what its caller left, at most: the jobs of a `map`, a lease."""


class AsyncClient:
    """The typed client of feeders and trainers, to be awaited. Calls raise `PrefstreamError`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        namespace: str | None = None,
        retry_for_s: float = 60.0,
    ) -> None:
        """`url`: http(s)://… of the service, or redis(s)://… of its server (with `namespace`, if it
        is not the default one). `retry_for_s`: how long a call is repeated while the service is
        busy or away, before it raises."""
        if url.startswith(REDIS_SCHEMES):
            from service.client.direct import RedisTransport

            self._transport: Transport = RedisTransport(url, namespace, retry_for_s)
        elif url.startswith(("http://", "https://")):
            self._transport = HttpTransport(url, api_key, retry_for_s)
        else:
            raise ValueError(
                f"{without_password(url)!r} starts with none of http://, https://, redis://, rediss://"
            )
        self._renewer = LeaseRenewer(self._transport)
        self._maps: WeakSet[AsyncGenerator[tuple[int, Job]]] = WeakSet()
        self._unfinished_maps: set[asyncio.Event] = set()
        """Each is set once what its map left open is cancelled."""
        self._background: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what runs in the background: leases that are held run out, jobs of a `map` that was
        left are cancelled."""
        for mapped in list(self._maps):
            with suppress(RuntimeError):  # another task is in the middle of it
                await mapped.aclose()
        # Of those that an error left nobody holds the generator; the event loop closes them soon.
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_S):
                await asyncio.gather(*(finished.wait() for finished in self._unfinished_maps))
        await asyncio.gather(*self._background)
        await self._renewer.close()
        await self._transport.close()

    async def sample(
        self, request: SampleRequest, *, wait_s: float = 0, idempotency_key: str | None = None
    ) -> Job:
        """Posts a job. With `wait_s`, waits that long for it, and raises `JobFailed` if it did not
        succeed."""
        return await self._submit(request, wait_s, idempotency_key)

    async def bdhs(
        self, request: BdhsRequest, *, wait_s: float = 0, idempotency_key: str | None = None
    ) -> Job:
        """Posts a job. With `wait_s`, waits that long for it, and raises `JobFailed` if it did not
        succeed."""
        return await self._submit(request, wait_s, idempotency_key)

    async def logprobs(
        self, request: LogprobsRequest, *, wait_s: float = 0, idempotency_key: str | None = None
    ) -> Job:
        """Posts a job. With `wait_s`, waits that long for it, and raises `JobFailed` if it did not
        succeed."""
        return await self._submit(request, wait_s, idempotency_key)

    async def _submit(
        self,
        request: JobRequest,
        wait_s: float,
        idempotency_key: str | None,
    ) -> Job:
        key = idempotency_key or uuid.uuid4().hex
        return await self._transport.submit(request, wait_s, key)

    async def job(self, job_id: str, *, wait_s: float = 0) -> Job:
        """The job as it is now, or as soon as it ends within `wait_s`."""
        return await self._transport.job(job_id, wait_s)

    async def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """The job once it has ended, in whatever way. Raises: TimeoutError."""
        end = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = end - time.monotonic()
            job = await self.job(job_id, wait_s=max(0.0, min(LONG_POLL_S, left)))
            if job.ended:
                return job
            if left <= 0:
                raise TimeoutError(f"job {job_id} is still {job.status} after {timeout_s:g} s")

    def map(
        self, requests: Iterable[JobRequest], *, in_flight: int = 16
    ) -> AsyncGenerator[tuple[int, Job]]:
        """Posts many jobs, `in_flight` at once, and yields each as it ends, in whatever way, with
        the index of its request: `async for index, job in client.map(requests)`.

        Requests are read in a thread as they are needed, so they may be an iterator over a large
        data set. While the queue or the run's window is full, it waits, however long that takes.
        Who leaves the loop before its end cancels the jobs that are still open.

        Raises: for the first request that the service refuses, as `sample` and `bdhs`.
        """
        mapped = self._map(requests, in_flight)
        self._maps.add(mapped)
        return mapped

    async def _map(
        self, requests: Iterable[JobRequest], in_flight: int
    ) -> AsyncGenerator[tuple[int, Job]]:
        source = enumerate(requests)
        submissions: set[asyncio.Task[Job]] = set()
        open_jobs: set[str] = set()

        async def submit(request: JobRequest) -> Job:
            key = uuid.uuid4().hex
            while True:
                try:
                    return await self._submit(request, 0, key)
                except TooManyRequests as full:
                    await asyncio.sleep(full.retry_after_s)

        async def run(index: int, request: JobRequest) -> tuple[int, Job]:
            submission = asyncio.create_task(submit(request))
            submissions.add(submission)
            # Shielded, so that who leaves learns of what is accepted just then, and cancels it.
            job = await asyncio.shield(submission)
            open_jobs.add(job.id)
            submissions.discard(submission)
            job = await self.wait(job.id)
            open_jobs.discard(job.id)
            return index, job

        running: set[asyncio.Task[tuple[int, Job]]] = set()
        more = True
        self._unfinished_maps.add(finished := asyncio.Event())
        try:
            while more or running:
                while more and len(running) < in_flight:
                    entry = await asyncio.to_thread(next, source, None)
                    if entry is None:
                        more = False
                    else:
                        running.add(asyncio.create_task(run(*entry)))
                if running:
                    ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in ended:
                        running.discard(task)
                        yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            with suppress(TimeoutError, PrefstreamError):
                async with asyncio.timeout(CANCEL_S):
                    sent = await asyncio.gather(*submissions, return_exceptions=True)
                    open_jobs |= {job.id for job in sent if isinstance(job, Job)}
                    await asyncio.gather(*map(self.cancel, open_jobs))
            self._unfinished_maps.discard(finished)
            finished.set()

    async def cancel(self, job_id: str) -> Job:
        """Cancels a job that has not ended. One that has is returned as it is."""
        return await self._transport.cancel(job_id)

    async def jobs(
        self, state: JobsState = "open", *, before: str | None = None, limit: int = 100
    ) -> JobsPage:
        """Jobs, newest first, without their results; `dead` for the dead letters."""
        return await self._transport.jobs(state, before, limit)

    async def retry_dead_letter(self, job_id: str) -> Job:
        """Puts a dead letter back into the queue."""
        return await self._transport.retry_dead_letter(job_id)

    async def purge_dead_letters(self) -> int:
        """Deletes all dead letters, and returns how many there were."""
        return await self._transport.purge_dead_letters()

    async def runs(self) -> list[Run]:
        """All runs, with their figures."""
        return await self._transport.runs()

    async def put_run(self, name: str, settings: RunSettings) -> Run:
        """Creates a run, or changes those of its settings that are named: `RunSettings(window=64)`
        leaves the others as they are."""
        return await self._transport.put_run(name, settings)

    async def run(self, name: str) -> Run:
        """A run's settings and figures. Raises: RunNotFound."""
        return await self._transport.run(name)

    async def delete_run(self, name: str, *, force: bool = False) -> None:
        """Deletes a run, its log of pairs and its groups. While jobs are open or batches under
        lease it raises RunBusy; with `force`, it cancels and ends them."""
        await self._transport.delete_run(name, force)

    async def delete_group(self, run: str, group: str) -> None:
        """Forgets a subscriber group that will not come back; the log is no longer kept for it.
        Raises: NotFound."""
        await self._transport.delete_group(run, group)

    async def pairs_page(
        self, run: str, *, after: str | None = None, limit: int = 100
    ) -> PairsPage:
        """A page of the run's log, from its start or after a cursor."""
        return await self._transport.pairs(run, after, limit)

    async def pairs(self, run: str, *, after: str | None = None) -> AsyncGenerator[Pair]:
        """The run's log from its start, or after a cursor, up to its present end."""
        while True:
            page = await self.pairs_page(run, after=after)
            for pair in page.pairs:
                yield pair
            if not page.pairs:
                return
            after = page.cursor

    async def filtered_page(
        self, run: str, *, after: str | None = None, limit: int = 100
    ) -> FilteredPage:
        """A page of the pairs that the run's filters left out, oldest first."""
        return await self._transport.filtered(run, after, limit)

    async def lease(
        self,
        run: str,
        *,
        group: str = "trainer",
        size: int = 8,
        min_size: int | None = None,
        lease_s: float = 60.0,
        wait_s: float = 0,
    ) -> AsyncLeasedBatch | None:
        """A batch of `size` pairs (at least `min_size`, or the run's window). None: they did not
        come within `wait_s`. Who cancels this call holds nothing.

        It is renewed in the background until `ack` or `nack`; if this process dies, its pairs are
        delivered again after `lease_s`.
        """
        token = uuid.uuid4().hex  # what makes repeating it safe
        request = LeaseRequest(
            group=group, size=size, min_size=min_size, lease_s=lease_s, token=token
        )
        end = time.monotonic() + wait_s
        try:
            while True:
                left = end - time.monotonic()
                part = request.model_copy(update={"wait_s": max(0.0, min(LONG_POLL_S, left))})
                batch = await self._transport.lease(run, part)
                if batch is not None:
                    return self._renewer.add(batch, lease_s)
                if left <= 0:
                    return None
        except asyncio.CancelledError:
            # The answer may be on its way, and the lease given.
            await asyncio.shield(self._in_background(self._release(run, group, token)))
            raise

    async def _release(self, run: str, group: str, token: str) -> None:
        with suppress(TimeoutError, PrefstreamError):
            async with asyncio.timeout(CANCEL_S):
                await self._transport.release(run, group, token)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that `close` waits for."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def append(self, run: str, pair: PairRequest) -> Appended:
        """Appends a pair of a data set to the run's log. Safe to repeat: the pair gets its id here,
        if it has none."""
        if pair.pair_id is None:
            pair = pair.model_copy(update={"pair_id": uuid.uuid4().hex})
        return await self._transport.append(run, pair)

    async def batches(
        self,
        run: str,
        *,
        group: str = "trainer",
        size: int = 8,
        min_size: int | None = None,
        lease_s: float = 60.0,
        idle_s: float = float("inf"),
    ) -> AsyncGenerator[AsyncLeasedBatch]:
        """Batches, each as of `lease`, as they become available. Ends only after `idle_s` without
        one."""
        while leased := await self.lease(
            run, group=group, size=size, min_size=min_size, lease_s=lease_s, wait_s=idle_s
        ):
            yield leased

    async def ack(self, run: str, lease: str) -> None:
        """Acknowledges a lease by its id, as `ack` of the batch does: for who comes back after a
        crash, and had saved what the pairs taught. Raises: LeaseLost,
        LogChanged."""
        await self._transport.ack(run, lease)

    async def announce(self, version: WeightVersion) -> Weights:
        """Tells all workers of a version that is complete in the weight store."""
        return await self._transport.announce(version)

    async def withdraw(self, version: int) -> Weights:
        """Takes a version back: no worker adopts it any more, and those that serve it go back to
        the newest that is left. Raises: VersionNotFound."""
        return await self._transport.withdraw(version)

    async def weights(self, *, settled: int | None = None, wait_s: float = 0) -> Weights:
        """The newest version and what each worker runs. With `settled`, waits up to `wait_s` until
        every live worker serves that version or a newer one, or has refused it."""
        return await self._transport.weights(settled, wait_s)

    async def image(self, ref: str) -> bytes:
        """The encoded image of a `sha256:…`, as pairs and requests name it."""
        return await self._transport.image(ref)

    async def store_image(self, content: bytes) -> StoredImage:
        """Stores an encoded image (PNG, JPEG, WEBP), to be named in many requests."""
        return await self._transport.store_image(content)

    async def settings(self) -> NamespaceSettings:
        """What service, workers and clients of the namespace hold alike."""
        return await self._transport.settings()

    async def change_settings(self, changes: NamespaceSettings) -> NamespaceSettings:
        """Changes the fields that were given, `NamespaceSettings(lease_s=60)`, for all who use the
        namespace; those that run go by them within seconds."""
        return await self._transport.change_settings(changes)

    async def health(self) -> Health:
        """Whether jobs can be taken in, and the workers that live. It is not repeated."""
        return await self._transport.health()
