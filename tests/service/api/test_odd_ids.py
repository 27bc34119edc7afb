"""Whatever stands in a path or cursor: it is named, or refused, and breaks nothing."""

import httpx
import pytest

from service.broker import Broker
from tests.service.samples import append, enqueue

ODD = ["{job}:events", "{run}:log", "{run}:group:trainer", "~", "a:b", "%00", "%C3%A9", "%FF"]
ODD += ["-1", "0" * 400, "9" * 40, "%7Bx%7D", "a%20b", "*", "1-1", "%D9%A1-%D9%A1"]

OF_A_JOB = [
    ("GET", ""),
    ("GET", "?wait_s=1"),
    ("DELETE", ""),
    ("POST", "/retry"),
    ("GET", "/events"),
]
PATHS = [("GET", "/images/{0}"), ("DELETE", "/weights/{0}"), ("GET", "/jobs?before={0}")]
PATHS += [("GET", "/runs/{0}"), ("DELETE", "/runs/{0}"), ("GET", "/runs/{0}/pairs")]
PATHS += [("GET", "/runs/r/pairs?after={0}"), ("GET", "/runs/r/filtered?after={0}")]
PATHS += [("DELETE", "/runs/r/groups/{0}"), ("DELETE", "/runs/r/groups/g/leases/a{0}")]
PATHS += [("GET", "/weights?wait_s=1&settled={0}")]
PATHS += [("POST", f"/runs/r/leases/{{0}}/{call}") for call in ("ack", "nack", "renew")]
PATHS += [("POST", f"/runs/r/leases/{{epoch}}~{{0}}~x/{call}") for call in ("ack", "nack", "renew")]
PATHS += [("POST", "/runs/r/leases/{epoch}~trainer~{0}/ack")]


async def test_no_job_is_called_so(http: httpx.AsyncClient, worker: Broker) -> None:
    job = await enqueue(worker, run="r")
    await worker.connection.redis.xadd(worker.connection.key("job", job.id, "events"), {"a": "b"})
    for odd in ODD:
        for method, path in OF_A_JOB:
            answer = await http.request(method, f"/jobs/{odd.format(job=job.id, run='r')}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found"), odd


async def test_nothing_else_is_called_so(http: httpx.AsyncClient, worker: Broker) -> None:
    await append(worker, 2)
    run = await worker.runs.get("r")
    assert run
    for odd in ODD:
        for method, path in PATHS:
            name = odd.format(job="0" * 32, run="r")
            answer = await http.request(method, path.format(name, epoch=run.epoch))
            assert answer.status_code < 500, (method, path, answer.text)
    assert await worker.runs.get("r") == run


@pytest.mark.parametrize("odd", ["x", "1", "-", "1-1-1", "9" * 17 + "-1", "\u0661-\u0661"])
async def test_no_event_is_called_so(http: httpx.AsyncClient, worker: Broker, odd: str) -> None:
    job = await enqueue(worker)
    headers = {"Last-Event-ID": odd.encode().decode("latin-1").encode("latin-1")}
    answer = await http.get(f"/jobs/{job.id}/events", headers=headers)  # pyright: ignore[reportArgumentType]
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_event_id")
