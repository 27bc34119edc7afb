"""How the client reaches the service: over HTTP, or inside the cluster straight on its Redis."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from service.broker import UNAVAILABLE, Broker, BrokerError, QueueFull, WindowFull
from service.schemas import (
    Appended,
    Batch,
    BdhsRequest,
    Health,
    Job,
    JobKind,
    JobsPage,
    JobsState,
    LeaseRequest,
    PairRequest,
    PairsPage,
    Problem,
    Purged,
    Run,
    RunSettings,
    SampleRequest,
    StoredImage,
    Weights,
    WeightVersion,
)
from service.settings import Settings

RUNS: TypeAdapter[list[Run]] = TypeAdapter(list[Run])
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

LONG_POLL_S = 30.0
"""Longest single wait; longer ones are made of several, so that proxies do not cut them."""

HTTP_TIMEOUT_S = 30.0
"""Answer time beyond what was asked to wait."""

PAUSE_S = 1.0
"""Between two tries, unless the service says how long."""


class ProblemError(Exception):
    """The service refused, or could not. `problem` is its answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.code}: {problem.detail}")
        self.problem = problem


class Transport(Protocol):
    """What a client needs of the service. All methods raise `ProblemError`, after they have
    repeated for a while what may pass: a full queue, a service or a Redis that is away."""

    async def submit(
        self, kind: JobKind, request: SampleRequest | BdhsRequest, wait_s: float, key: str
    ) -> Job: ...
    async def job(self, job_id: str, wait_s: float) -> Job: ...
    async def cancel(self, job_id: str) -> Job: ...
    async def jobs(self, state: JobsState, before: str | None, limit: int) -> JobsPage: ...
    async def retry(self, job_id: str) -> Job: ...
    async def purge(self) -> int: ...
    async def runs(self) -> list[Run]: ...
    async def put_run(self, name: str, settings: RunSettings) -> Run: ...
    async def run(self, name: str) -> Run: ...
    async def delete_run(self, name: str, force: bool) -> None: ...
    async def pairs(self, run: str, after: str | None, limit: int) -> PairsPage: ...
    async def append(self, run: str, pair: PairRequest) -> Appended: ...
    async def lease(self, run: str, request: LeaseRequest) -> Batch | None: ...
    async def ack(self, run: str, lease: str) -> None: ...
    async def nack(self, run: str, lease: str) -> None: ...
    async def renew(self, run: str, lease: str, lease_s: float) -> None: ...
    async def announce(self, version: WeightVersion) -> Weights: ...
    async def weights(self, settled: int | None, wait_s: float) -> Weights: ...
    async def image(self, ref: str) -> bytes: ...
    async def store_image(self, content: bytes) -> StoredImage: ...
    async def health(self) -> Health: ...
    async def close(self) -> None: ...


class HttpTransport:
    def __init__(self, url: str, api_key: str | None, patience_s: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=HTTP_TIMEOUT_S)
        self._patience_s = patience_s

    async def submit(
        self, kind: JobKind, request: SampleRequest | BdhsRequest, wait_s: float, key: str
    ) -> Job:
        return await self._call(
            Job,
            "POST",
            f"/{kind.value}",
            body=request,
            headers={"Idempotency-Key": key},  # what makes repeating it safe
            params={"wait_s": wait_s} if wait_s else {},
            patience_s=wait_s,
        )

    async def job(self, job_id: str, wait_s: float) -> Job:
        path, params = f"/jobs/{job_id}", {"wait_s": wait_s} if wait_s else {}
        return await self._call(Job, "GET", path, params=params, patience_s=wait_s)

    async def cancel(self, job_id: str) -> Job:
        return await self._call(Job, "DELETE", f"/jobs/{job_id}")

    async def jobs(self, state: JobsState, before: str | None, limit: int) -> JobsPage:
        params = {"state": state, "limit": limit} | ({"before": before} if before else {})
        return await self._call(JobsPage, "GET", "/jobs", params=params)

    async def retry(self, job_id: str) -> Job:
        return await self._call(Job, "POST", f"/jobs/{job_id}/retry")

    async def purge(self) -> int:
        return (await self._call(Purged, "DELETE", "/jobs", params={"state": "dead"})).purged

    async def runs(self) -> list[Run]:
        return RUNS.validate_json((await self._request("GET", "/runs")).content)

    async def put_run(self, name: str, settings: RunSettings) -> Run:
        return await self._call(Run, "PUT", f"/runs/{name}", body=settings)

    async def run(self, name: str) -> Run:
        return await self._call(Run, "GET", f"/runs/{name}")

    async def delete_run(self, name: str, force: bool) -> None:
        await self._request("DELETE", f"/runs/{name}", params={"force": force} if force else {})

    async def pairs(self, run: str, after: str | None, limit: int) -> PairsPage:
        params: dict[str, Any] = {"limit": limit} | ({"after": after} if after else {})
        return await self._call(PairsPage, "GET", f"/runs/{run}/pairs", params=params)

    async def append(self, run: str, pair: PairRequest) -> Appended:
        return await self._call(Appended, "POST", f"/runs/{run}/pairs", body=pair)

    async def lease(self, run: str, request: LeaseRequest) -> Batch | None:
        path = f"/runs/{run}/leases"
        response = await self._request("POST", path, body=request, patience_s=request.wait_s)
        return Batch.model_validate_json(response.content) if response.content else None

    async def ack(self, run: str, lease: str) -> None:
        await self._request("POST", f"/runs/{run}/leases/{lease}/ack")

    async def nack(self, run: str, lease: str) -> None:
        await self._request("POST", f"/runs/{run}/leases/{lease}/nack")

    async def renew(self, run: str, lease: str, lease_s: float) -> None:
        path = f"/runs/{run}/leases/{lease}/renew"
        await self._request("POST", path, json={"lease_s": lease_s})

    async def announce(self, version: WeightVersion) -> Weights:
        return await self._call(Weights, "POST", "/weights", body=version)

    async def weights(self, settled: int | None, wait_s: float) -> Weights:
        params = {"settled": settled, "wait_s": wait_s} if settled is not None else {}
        return await self._call(Weights, "GET", "/weights", params=params, patience_s=wait_s)

    async def image(self, ref: str) -> bytes:
        return (await self._request("GET", f"/images/{ref}")).content

    async def store_image(self, content: bytes) -> StoredImage:
        return await self._call(StoredImage, "POST", "/images", content=content)

    async def health(self) -> Health:
        response = await self._http.get("/health/ready")
        return Health.model_validate_json(response.content)

    async def close(self) -> None:
        await self._http.aclose()

    async def _call(self, model: type[M], method: str, path: str, **options: Any) -> M:
        return model.model_validate_json((await self._request(method, path, **options)).content)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        patience_s: float = 0,
        **options: Any,
    ) -> httpx.Response:
        """`patience_s`: how long the service was asked to wait with its answer."""
        options["timeout"] = HTTP_TIMEOUT_S + patience_s
        if body is not None:
            options["content"] = body.model_dump_json()
            options.setdefault("headers", {})["Content-Type"] = "application/json"
        end = time.monotonic() + self._patience_s
        while True:
            pause = PAUSE_S
            try:
                response = await self._http.request(method, path, **options)
                if response.is_success:
                    return response
                error: Exception = ProblemError(_problem(response))
                if response.status_code not in (429, 503):
                    raise error
                pause = float(response.headers.get("Retry-After", pause))
            except httpx.TransportError as lost:
                error = lost
            if time.monotonic() + pause > end:
                raise error
            await asyncio.sleep(pause)


def _problem(response: httpx.Response) -> Problem:
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:  # not from the service: a proxy's page, say
        return Problem(
            title=response.reason_phrase,
            status=response.status_code,
            code="http_error",
            detail=response.text[:500],
        )


class RedisTransport:
    """The same calls without the HTTP face between, on the same jobs and leases."""

    def __init__(self, url: str, namespace: str | None, patience_s: float) -> None:
        # Imported here, because who talks HTTP needs none of the server's libraries.
        from service import problems
        from service.intake import Intake

        settings = Settings.model_validate(
            {"redis_url": url} | ({"namespace": namespace} if namespace else {})
        )
        self._problems = problems
        self._broker = Broker.connect(settings)
        self._intake = Intake(self._broker, settings)
        self._patience_s = patience_s

    async def submit(
        self, kind: JobKind, request: SampleRequest | BdhsRequest, wait_s: float, key: str
    ) -> Job:
        async def enqueue() -> Job:
            stored = await self._intake.request(request)
            return await self._broker.jobs.enqueue(kind, stored, idempotency_key=key)

        job = await self.job((await self._call(enqueue)).id, wait_s)
        if wait_s > 0 and (problem := self._problems.job_problem(job)):
            raise ProblemError(problem)
        return job

    async def job(self, job_id: str, wait_s: float) -> Job:
        job = await self._call(lambda: self._broker.jobs.wait(job_id, wait_s))
        if job is None:
            raise ProblemError(self._problems.no_such_job(job_id).problem)
        return job

    async def cancel(self, job_id: str) -> Job:
        await self._call(lambda: self._broker.jobs.cancel(job_id))
        return await self.job(job_id, 0)

    async def jobs(self, state: JobsState, before: str | None, limit: int) -> JobsPage:
        return await self._call(lambda: self._broker.jobs.page(state, before=before, limit=limit))

    async def retry(self, job_id: str) -> Job:
        await self._call(lambda: self._broker.jobs.retry_dead_letter(job_id))
        job = await self.job(job_id, 0)
        if job.ended:
            raise ProblemError(self._problems.not_dead(job).problem)
        return job

    async def purge(self) -> int:
        return await self._call(self._broker.jobs.purge_dead_letters)

    async def runs(self) -> list[Run]:
        names = await self._call(self._broker.runs.names)
        return [await self.run(name) for name in names]

    async def put_run(self, name: str, settings: RunSettings) -> Run:
        return await self._call(lambda: self._broker.runs.put(name, settings))

    async def run(self, name: str) -> Run:
        run = await self._call(lambda: self._broker.runs.get(name))
        if run is None:
            raise ProblemError(self._problems.no_such_run(name).problem)
        return run

    async def delete_run(self, name: str, force: bool) -> None:
        await self._of_run(name, lambda: self._broker.runs.delete(name, force=force))

    async def pairs(self, run: str, after: str | None, limit: int) -> PairsPage:
        return await self._of_run(run, lambda: self._broker.runs.pairs(run, after, limit))

    async def append(self, run: str, pair: PairRequest) -> Appended:
        async def append() -> Appended:
            return await self._broker.runs.append(run, await self._intake.request(pair))

        return await self._call(append)

    async def lease(self, run: str, request: LeaseRequest) -> Batch | None:
        return await self._of_run(run, lambda: self._broker.batches.lease(run, request))

    async def ack(self, run: str, lease: str) -> None:
        await self._call(lambda: self._broker.batches.ack(run, lease))

    async def nack(self, run: str, lease: str) -> None:
        await self._call(lambda: self._broker.batches.nack(run, lease))

    async def renew(self, run: str, lease: str, lease_s: float) -> None:
        await self._call(lambda: self._broker.batches.renew(run, lease, lease_s))

    async def announce(self, version: WeightVersion) -> Weights:
        await self._call(lambda: self._broker.weights.announce(version))
        return await self.weights(None, 0)

    async def weights(self, settled: int | None, wait_s: float) -> Weights:
        if settled is not None:
            await self._call(lambda: self._broker.weights.wait_adopted(settled, wait_s))
        return await self._call(self._broker.weights.state)

    async def image(self, ref: str) -> bytes:
        return await self._call(lambda: self._broker.images.get(ref))

    async def store_image(self, content: bytes) -> StoredImage:
        return await self._call(lambda: self._intake.store(content))

    async def health(self) -> Health:
        workers = await self._call(self._broker.workers.all)
        return Health(status="ok", redis=True, workers=workers)

    async def close(self) -> None:
        await self._broker.close()

    async def _of_run(self, run: str, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._call(call)
        except KeyError:
            raise ProblemError(self._problems.no_such_run(run).problem) from None

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Turns refusals into the problems that the HTTP face would answer with."""
        end = time.monotonic() + self._patience_s
        while True:
            try:
                return await call()
            except (QueueFull, WindowFull) as full:
                if time.monotonic() + full.retry_after_s > end:
                    raise ProblemError(self._problems.broker_problem(full)) from full
                await asyncio.sleep(full.retry_after_s)
            except BrokerError as error:
                raise ProblemError(self._problems.broker_problem(error)) from error
            except self._problems.Refusal as refusal:
                raise ProblemError(refusal.problem) from refusal
            except UNAVAILABLE:
                if time.monotonic() + PAUSE_S > end:
                    raise
                await asyncio.sleep(PAUSE_S)
