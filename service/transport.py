"""How the client reaches the service: over HTTP, or inside the cluster straight on its Redis."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from service.broker import Broker, BrokerError, WindowFull
from service.schemas import (
    BdhsRequest,
    Health,
    Job,
    JobKind,
    PairsPage,
    Problem,
    Run,
    RunSettings,
    SampleRequest,
    StoredImage,
)
from service.settings import Settings

M = TypeVar("M", bound=BaseModel)

LONG_POLL_S = 30.0
"""Longest single wait; longer ones are made of several, so that proxies do not cut them."""

HTTP_TIMEOUT_S = 30.0
"""Answer time beyond what was asked to wait."""


class ProblemError(Exception):
    """The service refused, or could not. `problem` is its answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.code}: {problem.detail}")
        self.problem = problem


class Transport(Protocol):
    """What a client needs of the service. All methods raise `ProblemError`."""

    async def submit(
        self, kind: JobKind, request: SampleRequest | BdhsRequest, wait_s: float, key: str
    ) -> Job: ...
    async def job(self, job_id: str, wait_s: float) -> Job: ...
    async def cancel(self, job_id: str) -> Job: ...
    async def put_run(self, name: str, settings: RunSettings) -> Run: ...
    async def run(self, name: str) -> Run: ...
    async def pairs(self, run: str, after: str | None, limit: int) -> PairsPage: ...
    async def image(self, ref: str) -> bytes: ...
    async def store_image(self, content: bytes) -> StoredImage: ...
    async def health(self) -> Health: ...
    async def close(self) -> None: ...


class HttpTransport:
    """Repeats what may pass (429, 503, a lost connection) for `patience_s`; safe, because every
    POST carries an idempotency key."""

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
            content=request.model_dump_json(exclude_unset=True),
            headers={"Content-Type": "application/json", "Idempotency-Key": key},
            wait_s=wait_s,
        )

    async def job(self, job_id: str, wait_s: float) -> Job:
        return await self._call(Job, "GET", f"/jobs/{job_id}", wait_s=wait_s)

    async def cancel(self, job_id: str) -> Job:
        return await self._call(Job, "DELETE", f"/jobs/{job_id}")

    async def put_run(self, name: str, settings: RunSettings) -> Run:
        return await self._call(Run, "PUT", f"/runs/{name}", json=settings.model_dump(mode="json"))

    async def run(self, name: str) -> Run:
        return await self._call(Run, "GET", f"/runs/{name}")

    async def pairs(self, run: str, after: str | None, limit: int) -> PairsPage:
        params: dict[str, Any] = {"limit": limit} | ({"after": after} if after else {})
        return await self._call(PairsPage, "GET", f"/runs/{run}/pairs", params=params)

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
        self, method: str, path: str, *, wait_s: float = 0, **options: Any
    ) -> httpx.Response:
        if wait_s:
            options["params"] = {"wait_s": wait_s}
            options["timeout"] = HTTP_TIMEOUT_S + wait_s
        end = time.monotonic() + self._patience_s
        while True:
            pause = 1.0
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
    """The same calls without the HTTP face between, on the same leases."""

    def __init__(self, url: str, namespace: str | None, patience_s: float) -> None:
        # Imported here, because the HTTP client needs none of the server's libraries.
        from service.api.intake import Intake

        settings = Settings.model_validate(
            {"redis_url": url} | ({"namespace": namespace} if namespace else {})
        )
        self._broker = Broker.connect(settings)
        self._intake = Intake(self._broker, settings)
        self._patience_s = patience_s

    async def submit(
        self, kind: JobKind, request: SampleRequest | BdhsRequest, wait_s: float, key: str
    ) -> Job:
        end = time.monotonic() + self._patience_s
        with _problems():
            request = await self._intake.request(request)
            while True:
                try:
                    job = await self._broker.jobs.enqueue(kind, request, idempotency_key=key)
                    break
                except WindowFull as full:
                    if time.monotonic() + full.retry_after_s > end:
                        raise
                    await asyncio.sleep(full.retry_after_s)
        return await self._waited(job.id, wait_s)

    async def job(self, job_id: str, wait_s: float) -> Job:
        from service.api.problems import no_such_job

        job = await self._broker.jobs.wait(job_id, wait_s)
        if job is None:
            raise ProblemError(no_such_job(job_id).problem)
        return job

    async def _waited(self, job_id: str, wait_s: float) -> Job:
        from service.api.problems import unsuccessful

        job = await self.job(job_id, wait_s)
        if wait_s > 0 and (problem := unsuccessful(job)):
            raise ProblemError(problem)
        return job

    async def cancel(self, job_id: str) -> Job:
        await self._broker.jobs.cancel(job_id)
        return await self.job(job_id, 0)

    async def put_run(self, name: str, settings: RunSettings) -> Run:
        return await self._broker.runs.put(name, settings)

    async def run(self, name: str) -> Run:
        from service.api.problems import no_such_run

        run = await self._broker.runs.get(name)
        if run is None:
            raise ProblemError(no_such_run(name).problem)
        return run

    async def pairs(self, run: str, after: str | None, limit: int) -> PairsPage:
        from service.api.problems import no_such_run

        with _problems():
            try:
                return await self._broker.runs.pairs(run, after, limit)
            except KeyError:
                raise ProblemError(no_such_run(run).problem) from None

    async def image(self, ref: str) -> bytes:
        with _problems():
            return await self._broker.images.get(ref)

    async def store_image(self, content: bytes) -> StoredImage:
        with _problems():
            return await self._intake.store(content)

    async def health(self) -> Health:
        workers = await self._broker.workers.all()
        ready = any(worker.engine_ready for worker in workers)
        return Health(status="ok" if ready else "unavailable", redis=True, workers=workers)

    async def close(self) -> None:
        await self._broker.close()


@contextmanager
def _problems() -> Generator[None]:
    """Turns the broker's refusals into the problems that the HTTP face would answer with."""
    from service.api.problems import Refusal, broker_problem

    try:
        yield
    except BrokerError as error:
        raise ProblemError(broker_problem(error)) from error
    except Refusal as error:
        raise ProblemError(error.problem) from error
