"""The typed client of feeders and trainers.

    with Client("http://127.0.0.1:8000") as client:
        job = client.bdhs(BdhsRequest(prompt=…, images=[image_data(path)], reference=…), wait_s=60)

    with Client("redis://…") as client:
        for batch in client.batches(run="r"):
            train(batch.pairs)
            batch.ack()

`AsyncClient` has the same calls to be awaited. Inside the cluster, a `redis://` address in place of
the HTTP one skips the HTTP face; calls and leases are the same.
"""

import base64
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from anyio.from_thread import start_blocking_portal

from service.client.leases import AsyncLeasedBatch, Keeper, LeasedBatch
from service.client.transport import (
    LONG_POLL_S,
    HttpTransport,
    ProblemError,
    RedisTransport,
    Transport,
)
from service.schemas import (
    Appended,
    BdhsRequest,
    Health,
    Job,
    JobKind,
    JobsPage,
    JobsState,
    LeaseRequest,
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

__all__ = [
    "AsyncClient",
    "AsyncLeasedBatch",
    "Client",
    "LeasedBatch",
    "ProblemError",
    "image_data",
]


def image_data(image: bytes | Path) -> str:
    """An image as an entry of a request's `images`."""
    content = image if isinstance(image, bytes) else image.read_bytes()
    return base64.b64encode(content).decode()


class AsyncClient:
    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        namespace: str | None = None,
        patience_s: float = 60.0,
    ) -> None:
        """`url`: http(s)://… of the service, or redis(s)://… of its server (with `namespace`, if it
        is not the default one). `patience_s`: how long a call is repeated while the service is
        busy or away, before it raises."""
        if url.startswith(("redis://", "rediss://", "unix://")):
            self._transport: Transport = RedisTransport(url, namespace, patience_s)
        elif url.startswith(("http://", "https://")):
            self._transport = HttpTransport(url, api_key, patience_s)
        else:
            raise ValueError(f"{url!r} starts with none of http://, https://, redis://, rediss://")
        self._keeper = Keeper(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._keeper.close()
        await self._transport.close()

    async def sample(
        self, request: SampleRequest, *, wait_s: float = 0, idempotency_key: str | None = None
    ) -> Job:
        """Posts a job. With `wait_s`, waits that long for it, and raises if it did not succeed."""
        return await self._submit(JobKind.sample, request, wait_s, idempotency_key)

    async def bdhs(
        self, request: BdhsRequest, *, wait_s: float = 0, idempotency_key: str | None = None
    ) -> Job:
        """Posts a job. With `wait_s`, waits that long for it, and raises if it did not succeed."""
        return await self._submit(JobKind.bdhs, request, wait_s, idempotency_key)

    async def _submit(
        self,
        kind: JobKind,
        request: SampleRequest | BdhsRequest,
        wait_s: float,
        idempotency_key: str | None,
    ) -> Job:
        key = idempotency_key or uuid.uuid4().hex
        return await self._transport.submit(kind, request, wait_s, key)

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

    async def cancel(self, job_id: str) -> Job:
        return await self._transport.cancel(job_id)

    async def jobs(
        self, state: JobsState = "open", *, before: str | None = None, limit: int = 100
    ) -> JobsPage:
        """Jobs, newest first, without their results; `dead` for the dead letters."""
        return await self._transport.jobs(state, before, limit)

    async def retry(self, job_id: str) -> Job:
        """Puts a dead letter back into the queue."""
        return await self._transport.retry(job_id)

    async def purge(self) -> int:
        """Deletes all dead letters, and returns how many there were."""
        return await self._transport.purge()

    async def runs(self) -> list[Run]:
        return await self._transport.runs()

    async def put_run(self, name: str, settings: RunSettings) -> Run:
        return await self._transport.put_run(name, settings)

    async def run(self, name: str) -> Run:
        return await self._transport.run(name)

    async def delete_run(self, name: str, *, force: bool = False) -> None:
        """Deletes a run, its log of pairs and its groups. While jobs are open or batches under
        lease it raises ProblemError `run_busy`; with `force`, it cancels and ends them."""
        await self._transport.delete_run(name, force)

    async def pairs_page(
        self, run: str, *, after: str | None = None, limit: int = 100
    ) -> PairsPage:
        return await self._transport.pairs(run, after, limit)

    async def pairs(self, run: str, *, after: str | None = None) -> AsyncIterator[Pair]:
        """The run's log from its start, or after a cursor, up to its present end."""
        while True:
            page = await self.pairs_page(run, after=after)
            for pair in page.pairs:
                yield pair
            if not page.pairs:
                return
            after = page.cursor

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
        come within `wait_s`.

        It is renewed in the background until `ack` or `nack`; if this process dies, its pairs are
        delivered again after `lease_s`.
        """
        request = LeaseRequest(group=group, size=size, min_size=min_size, lease_s=lease_s)
        end = time.monotonic() + wait_s
        while True:
            left = end - time.monotonic()
            part = request.model_copy(update={"wait_s": max(0.0, min(LONG_POLL_S, left))})
            batch = await self._transport.lease(run, part)
            if batch is not None:
                return self._keeper.keep(batch, lease_s)
            if left <= 0:
                return None

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
    ) -> AsyncIterator[AsyncLeasedBatch]:
        """Batches, each as of `lease`, as they become available. Ends only after `idle_s` without
        one."""
        while leased := await self.lease(
            run, group=group, size=size, min_size=min_size, lease_s=lease_s, wait_s=idle_s
        ):
            yield leased

    async def ack(self, run: str, lease: str) -> None:
        """Acknowledges a lease by its id, as `ack` of the batch does: for who comes back after a
        crash, and had saved what the pairs taught. Raises: ProblemError `lease_lost`,
        `log_changed`."""
        await self._transport.ack(run, lease)

    async def announce(self, version: WeightVersion) -> Weights:
        """Tells all workers of a version that is complete in the weight store."""
        return await self._transport.announce(version)

    async def weights(self, *, settled: int | None = None, wait_s: float = 0) -> Weights:
        """The newest version and what each worker runs. With `settled`, waits up to `wait_s` until
        every live worker serves that version or a newer one, or has refused it."""
        return await self._transport.weights(settled, wait_s)

    async def image(self, ref: str) -> bytes:
        return await self._transport.image(ref)

    async def store_image(self, content: bytes) -> StoredImage:
        return await self._transport.store_image(content)

    async def health(self) -> Health:
        return await self._transport.health()


class Client:
    """`AsyncClient` for code that does not await. Its event loop runs in a thread of its own, so
    that leases are renewed while the caller trains."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        namespace: str | None = None,
        patience_s: float = 60.0,
    ) -> None:
        """As of `AsyncClient`."""
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())

            async def build() -> AsyncClient:
                return AsyncClient(url, api_key=api_key, namespace=namespace, patience_s=patience_s)

            self._client = self._portal.call(build)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._stack:
            self._portal.call(self._client.close)

    def sample(
        self, request: SampleRequest, *, wait_s: float = 0, idempotency_key: str | None = None
    ) -> Job:
        """Posts a job. With `wait_s`, waits that long for it, and raises if it did not succeed."""
        return self._portal.call(
            lambda: self._client.sample(request, wait_s=wait_s, idempotency_key=idempotency_key)
        )

    def bdhs(
        self, request: BdhsRequest, *, wait_s: float = 0, idempotency_key: str | None = None
    ) -> Job:
        """Posts a job. With `wait_s`, waits that long for it, and raises if it did not succeed."""
        return self._portal.call(
            lambda: self._client.bdhs(request, wait_s=wait_s, idempotency_key=idempotency_key)
        )

    def job(self, job_id: str, *, wait_s: float = 0) -> Job:
        """The job as it is now, or as soon as it ends within `wait_s`."""
        return self._portal.call(lambda: self._client.job(job_id, wait_s=wait_s))

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """The job once it has ended, in whatever way. Raises: TimeoutError."""
        return self._portal.call(lambda: self._client.wait(job_id, timeout_s=timeout_s))

    def cancel(self, job_id: str) -> Job:
        return self._portal.call(self._client.cancel, job_id)

    def jobs(
        self, state: JobsState = "open", *, before: str | None = None, limit: int = 100
    ) -> JobsPage:
        """Jobs, newest first, without their results; `dead` for the dead letters."""
        return self._portal.call(lambda: self._client.jobs(state, before=before, limit=limit))

    def retry(self, job_id: str) -> Job:
        """Puts a dead letter back into the queue."""
        return self._portal.call(self._client.retry, job_id)

    def purge(self) -> int:
        """Deletes all dead letters, and returns how many there were."""
        return self._portal.call(self._client.purge)

    def runs(self) -> list[Run]:
        return self._portal.call(self._client.runs)

    def put_run(self, name: str, settings: RunSettings) -> Run:
        return self._portal.call(self._client.put_run, name, settings)

    def run(self, name: str) -> Run:
        return self._portal.call(self._client.run, name)

    def delete_run(self, name: str, *, force: bool = False) -> None:
        """Deletes a run, its log of pairs and its groups. While jobs are open or batches under
        lease it raises ProblemError `run_busy`; with `force`, it cancels and ends them."""
        self._portal.call(lambda: self._client.delete_run(name, force=force))

    def pairs_page(self, run: str, *, after: str | None = None, limit: int = 100) -> PairsPage:
        return self._portal.call(lambda: self._client.pairs_page(run, after=after, limit=limit))

    def pairs(self, run: str, *, after: str | None = None) -> Iterator[Pair]:
        """The run's log from its start, or after a cursor, up to its present end."""
        while True:
            page = self.pairs_page(run, after=after)
            yield from page.pairs
            if not page.pairs:
                return
            after = page.cursor

    def lease(
        self,
        run: str,
        *,
        group: str = "trainer",
        size: int = 8,
        min_size: int | None = None,
        lease_s: float = 60.0,
        wait_s: float = 0,
    ) -> LeasedBatch | None:
        """A batch of `size` pairs (at least `min_size`, or the run's window). None: they did not
        come within `wait_s`.

        It is renewed in the background until `ack` or `nack`; if this process dies, its pairs are
        delivered again after `lease_s`.
        """
        leased = self._portal.call(
            lambda: self._client.lease(
                run, group=group, size=size, min_size=min_size, lease_s=lease_s, wait_s=wait_s
            )
        )
        return None if leased is None else LeasedBatch(leased, self._portal.call)

    def append(self, run: str, pair: PairRequest) -> Appended:
        """Appends a pair of a data set to the run's log. Safe to repeat: the pair gets its id here,
        if it has none."""
        return self._portal.call(self._client.append, run, pair)

    def batches(
        self,
        run: str,
        *,
        group: str = "trainer",
        size: int = 8,
        min_size: int | None = None,
        lease_s: float = 60.0,
        idle_s: float = float("inf"),
    ) -> Iterator[LeasedBatch]:
        """Batches, each as of `lease`, as they become available. Ends only after `idle_s` without
        one."""
        while leased := self.lease(
            run, group=group, size=size, min_size=min_size, lease_s=lease_s, wait_s=idle_s
        ):
            yield leased

    def ack(self, run: str, lease: str) -> None:
        """Acknowledges a lease by its id, as `ack` of the batch does: for who comes back after a
        crash, and had saved what the pairs taught. Raises: ProblemError `lease_lost`,
        `log_changed`."""
        self._portal.call(self._client.ack, run, lease)

    def announce(self, version: WeightVersion) -> Weights:
        """Tells all workers of a version that is complete in the weight store."""
        return self._portal.call(self._client.announce, version)

    def weights(self, *, settled: int | None = None, wait_s: float = 0) -> Weights:
        """The newest version and what each worker runs. With `settled`, waits up to `wait_s` until
        every live worker serves that version or a newer one, or has refused it."""
        return self._portal.call(lambda: self._client.weights(settled=settled, wait_s=wait_s))

    def image(self, ref: str) -> bytes:
        return self._portal.call(self._client.image, ref)

    def store_image(self, content: bytes) -> StoredImage:
        return self._portal.call(self._client.store_image, content)

    def health(self) -> Health:
        return self._portal.call(self._client.health)
