"""The client's calls over HTTP."""

from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from service.addresses import without_password
from service.client.errors import PrefstreamError, RunNotFound, error_of, unreachable
from service.client.retrying import parse_retry_after, retry
from service.loopback import direct_transport
from service.schemas import (
    TOLERANT,
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
    Problem,
    Purged,
    Run,
    RunSettings,
    StoredImage,
    Weights,
    WeightVersion,
)

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

RUNS = TypeAdapter(list[Run])
BATCH = TypeAdapter(Batch)
HEALTH = TypeAdapter(Health)

HTTP_TIMEOUT_S = 30.0
"""Answer time beyond what was asked to wait."""


class HttpTransport:
    def __init__(self, url: str, api_key: str | None, retry_for_s: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = without_password(url)
        # No bound on connections: every call that waits for its job holds one.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=HTTP_TIMEOUT_S,
            limits=limits,
            transport=direct_transport(url, limits),
        )
        self._retry_for_s = retry_for_s

    async def submit(self, request: JobRequest, wait_s: float, key: str) -> Job:
        return await self._call(
            Job,
            "POST",
            f"/{request.kind.value}",
            body=request,
            headers={"Idempotency-Key": key},  # what makes repeating it safe
            params={"wait_s": wait_s} if wait_s else {},
            wait_s=wait_s,
        )

    async def job(self, job_id: str, wait_s: float) -> Job:
        path, params = f"/jobs/{job_id}", {"wait_s": wait_s} if wait_s else {}
        return await self._call(Job, "GET", path, params=params, wait_s=wait_s)

    async def cancel(self, job_id: str) -> Job:
        return await self._call(Job, "DELETE", f"/jobs/{job_id}")

    async def jobs(self, state: JobsState, before: str | None, limit: int) -> JobsPage:
        params = {"state": state, "limit": limit} | ({"before": before} if before else {})
        return await self._call(JobsPage, "GET", "/jobs", params=params)

    async def retry_dead_letter(self, job_id: str) -> Job:
        return await self._call(Job, "POST", f"/jobs/{job_id}/retry")

    async def purge_dead_letters(self) -> int:
        return (await self._call(Purged, "DELETE", "/jobs", params={"state": "dead"})).purged

    async def runs(self) -> list[Run]:
        return _read(RUNS, await self._request("GET", "/runs"))

    async def put_run(self, name: str, settings: RunSettings) -> Run:
        named = settings.model_dump(mode="json", exclude_unset=True)
        return await self._call(Run, "PUT", f"/runs/{name}", json=named)

    async def run(self, name: str) -> Run:
        return await self._call(Run, "GET", f"/runs/{name}")

    async def delete_run(self, name: str, force: bool) -> None:
        params = {"force": force} if force else {}
        await self._request("DELETE", f"/runs/{name}", params=params, repeated=RunNotFound)

    async def delete_group(self, run: str, group: str) -> None:
        await self._request("DELETE", f"/runs/{run}/groups/{group}")

    async def pairs(self, run: str, after: str | None, limit: int) -> PairsPage:
        params: dict[str, Any] = {"limit": limit} | ({"after": after} if after else {})
        return await self._call(PairsPage, "GET", f"/runs/{run}/pairs", params=params)

    async def filtered(self, run: str, after: str | None, limit: int) -> FilteredPage:
        params: dict[str, Any] = {"limit": limit} | ({"after": after} if after else {})
        return await self._call(FilteredPage, "GET", f"/runs/{run}/filtered", params=params)

    async def append(self, run: str, pair: PairRequest) -> Appended:
        return await self._call(Appended, "POST", f"/runs/{run}/pairs", body=pair)

    async def lease(self, run: str, request: LeaseRequest) -> Batch | None:
        path = f"/runs/{run}/leases"
        response = await self._request("POST", path, body=request, wait_s=request.wait_s)
        return _read(BATCH, response) if response.content else None

    async def release(self, run: str, group: str, token: str) -> None:
        await self._request("DELETE", f"/runs/{run}/groups/{group}/leases/{token}")

    async def ack(self, run: str, lease: str) -> None:
        await self._request("POST", f"/runs/{run}/leases/{lease}/ack")

    async def nack(self, run: str, lease: str) -> None:
        await self._request("POST", f"/runs/{run}/leases/{lease}/nack")

    async def renew(self, run: str, lease: str, lease_s: float) -> None:
        path = f"/runs/{run}/leases/{lease}/renew"
        await self._request("POST", path, json={"lease_s": lease_s})

    async def announce(self, version: WeightVersion) -> Weights:
        return await self._call(Weights, "POST", "/weights", body=version)

    async def withdraw(self, version: int) -> Weights:
        return await self._call(Weights, "DELETE", f"/weights/{version}")

    async def weights(self, settled: int | None, wait_s: float) -> Weights:
        params = {"settled": settled, "wait_s": wait_s} if settled is not None else {}
        return await self._call(Weights, "GET", "/weights", params=params, wait_s=wait_s)

    async def image(self, ref: str) -> bytes:
        return (await self._request("GET", f"/images/{ref}")).content

    async def store_image(self, content: bytes) -> StoredImage:
        return await self._call(StoredImage, "POST", "/images", content=content)

    async def settings(self) -> NamespaceSettings:
        return await self._call(NamespaceSettings, "GET", "/settings")

    async def change_settings(self, changes: NamespaceSettings) -> NamespaceSettings:
        body = changes.model_dump(mode="json", exclude_unset=True)
        return await self._call(NamespaceSettings, "PATCH", "/settings", json=body)

    async def health(self) -> Health:
        """As it answers, without a second try: unavailable is an answer, too."""
        try:
            response = await self._http.get("/health/ready")
        except httpx.TransportError as error:
            raise unreachable(self._url, error) from error
        if response.is_success or response.status_code == 503:
            return _read(HEALTH, response)
        raise error_of(_problem(response))

    async def close(self) -> None:
        await self._http.aclose()

    async def _call(self, model: type[M], method: str, path: str, **options: Any) -> M:
        return _read(TypeAdapter(model), await self._request(method, path, **options))

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        wait_s: float = 0,
        repeated: type[Exception] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """`wait_s`: how long the service was asked to wait with its answer. `repeated`: as of
        `retry`."""
        options["timeout"] = HTTP_TIMEOUT_S + wait_s
        if body is not None:
            options["content"] = body.model_dump_json()
            options.setdefault("headers", {})["Content-Type"] = "application/json"

        async def attempt() -> httpx.Response:
            try:
                response = await self._http.request(method, path, **options)
            except httpx.TransportError as error:
                raise unreachable(self._url, error) from error
            if response.is_success:
                return response
            headers = response.headers
            retry_after_s = parse_retry_after(headers.get("Retry-After"), headers.get("Date"))
            raise error_of(_problem(response), retry_after_s)

        return await retry(attempt, for_s=self._retry_for_s, repeated=repeated)


def _read(model: TypeAdapter[T], response: httpx.Response) -> T:
    """The answer, of this version of the service or a later one."""
    try:
        return model.validate_json(response.content, **TOLERANT)
    except ValidationError as error:
        raise PrefstreamError(
            Problem(
                title="Unreadable answer",
                status=response.status_code,
                code="unreadable_answer",
                detail=f"{response.request.url} answered what this client cannot read. Is it "
                f"prefstream, and is this client up to date? {error}",
            )
        ) from error


def _problem(response: httpx.Response) -> Problem:
    try:
        return Problem.model_validate_json(response.content, **TOLERANT)
    except ValidationError:  # not from the service: a proxy's page, say
        return Problem(
            title=response.reason_phrase,
            status=response.status_code,
            code="http_error",
            detail=response.text[:500],
        )
