"""`docker compose up`, from outside: what is in compose.yaml, over HTTP. The tests go on from one
another, in this order."""

import base64
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest

from service.client import Client
from service.schemas import BdhsRequest, Job, JobStatus, Priority
from tests.compose.deployment import Deployment, docker, logs
from trainer.toy.dataset import examples, png

T = TypeVar("T")

RUN = "main"
"""The feeder's and the trainer's."""

TIMEOUT_S = 1500.0
"""For anything at all, on any machine."""

PARTS = {"redis", "service", "worker", "trainer", "feeder"}


@pytest.fixture(scope="module")
def client(deployment: Deployment):
    with Client(deployment.url, retry_for_s=TIMEOUT_S) as client:
        yield client


def until(what: str, condition: Callable[[], T]) -> T:
    """Waits for it, and says how long that took. What the condition answered in the end."""
    start = time.monotonic()
    while not (answer := condition()):
        if time.monotonic() - start > TIMEOUT_S:
            raise TimeoutError(f"{what}: not within {TIMEOUT_S:.0f} s")
        time.sleep(0.5)
    print(f"{what}: after {time.monotonic() - start:.0f} s", flush=True)
    return answer


def post(client: Client, count: int, run: str, **settings: Any) -> list[str]:
    """BDHS jobs of a run of their own; ids in order."""
    ids: list[str] = []
    for item in examples(count):
        image = base64.b64encode(png(item)).decode()
        request = BdhsRequest(
            prompt=item.prompt,
            images=[image],
            reference=item.reference,
            run=run,
            rho=0.9,
            priority=Priority.high,
            **settings,
        )
        ids.append(client.bdhs(request, idempotency_key=f"{run} {len(ids)}").id)
    return ids


def ended(client: Client, ids: list[str]) -> list[Job]:
    return [client.wait(job_id, timeout_s=TIMEOUT_S) for job_id in ids]


def newest(client: Client) -> int:
    version = client.weights().newest
    return version.version if version else 0


def served(client: Client) -> list[int]:
    """Versions, one for each ready worker."""
    return [worker.weight_version for worker in client.weights().workers if worker.engine_ready]


def jobs_done(deployment: Deployment, worker: str) -> int:
    return figure(deployment, worker, "prefstream_worker_job_seconds_count")


def figure(deployment: Deployment, container: str, name: str) -> int:
    """Its sum over all labels."""
    values = re.findall(rf"^{name}(?:{{.*}})? (.*)$", deployment.metrics(container), re.M)
    return int(sum(map(float, values)))


def begun_by(container: str, jobs: Iterable[Job]) -> bool:
    """Whether it runs one of them now."""
    return any(
        # A container's id is its host's name.
        job.status == JobStatus.running and str(job.worker).startswith(container)
        for job in jobs
    )


def test_pairs_flow_and_weights_come_back(deployment: Deployment, client: Client) -> None:
    until("all parts are healthy", deployment.healthy)
    assert {deployment.name(c) for c in deployment.containers()} == PARTS
    until("pairs", lambda: client.run(RUN).pairs > 0)
    until("two weight versions", lambda: newest(client) >= 2)
    until("the worker serves them", lambda: served(client)[:1] >= [2])
    version = newest(client)
    until(
        "a pair of new weights",
        lambda: max(pair.rejected_version or 0 for pair in client.pairs(RUN)) >= version,
    )


def test_nobody_is_root_and_nothing_is_written_beside_the_volumes(deployment: Deployment) -> None:
    for container in deployment.containers():
        name = deployment.name(container)
        assert docker("exec", container, "id", "-u").strip() != "0", name
        assert deployment.inspect(container)["HostConfig"]["ReadonlyRootfs"], name
        written = docker("exec", container, "sh", "-c", "touch /usr/x 2>&1 || true")
        assert "Read-only file system" in written, name


def test_three_workers_share_the_work_and_take_new_weights(
    deployment: Deployment, client: Client
) -> None:
    deployment.compose("up", "--detach", "--no-build", "--scale", "worker=3")
    until("three workers are ready", lambda: len(served(client)) == 3)
    version = newest(client) + 1
    until("a version reaches all three", lambda: min(served(client)) >= version)
    ids = post(client, 60, "shared")
    assert {job.status for job in ended(client, ids)} == {JobStatus.succeeded}
    assert sorted(pair.pair_id for pair in client.pairs("shared")) == sorted(ids)
    done = [jobs_done(deployment, worker) for worker in deployment.containers("worker")]
    print("jobs of each worker:", done)
    assert min(done) > 0


def test_a_killed_worker_and_a_restarted_redis_lose_nothing(
    deployment: Deployment, client: Client
) -> None:
    # Long enough to be caught at it: every iteration is found too similar.
    long: Any = {"max_iterations": 8, "similarity_threshold": -1.0}
    victim, *others = deployment.containers("worker")
    docker("pause", victim, *others)
    before = post(client, 40, "faults", **long)
    docker("unpause", victim)  # alone: its hands are full at once
    until("it has begun some", lambda: begun_by(victim, map(client.job, before)))
    docker("kill", victim)
    print("killed it")
    docker("unpause", *others)
    deployment.compose("restart", "redis")
    after = post(client, 80, "faults", **long)  # the first 40 again, with the same keys
    assert after[:40] == before, "accepted jobs must still be known"
    jobs = ended(client, after)
    assert {job.status for job in jobs} == {JobStatus.succeeded}
    print("attempts:", Counter(job.attempt for job in jobs))
    assert max(job.attempt for job in jobs) > 1, "the killed worker's jobs were done again"
    assert sorted(pair.pair_id for pair in client.pairs("faults")) == sorted(after)
    until("two workers are left", lambda: len(served(client)) == 2)
    version = newest(client) + 1
    until("weights still come back", lambda: min(served(client)) >= version)
    fed = list(client.pairs(RUN))
    assert len({pair.pair_id for pair in fed}) == len(fed) == client.run(RUN).pairs
    figures = client.run(RUN)
    assert figures.dead_jobs == 0
    assert not client.jobs("dead").jobs
    deployment.compose("up", "--detach", "--no-build", "--scale", "worker=3")
    until("three workers again", lambda: len(served(client)) == 3)
    until("all parts are healthy", deployment.healthy)


def test_logs_name_the_job(deployment: Deployment) -> None:
    [worker, *_] = deployment.containers("worker")
    # Native code, and torch before it can be told otherwise, write lines of their own at the start.
    lines = [json.loads(line) for line in logs(worker) if line.startswith("{")]
    done = [line for line in lines if line["event"] == "job done"]
    assert done
    assert all({"job", "run", "attempt", "version", "timestamp"} <= line.keys() for line in done)


def test_all_stop_in_order(deployment: Deployment) -> None:
    start = time.monotonic()
    deployment.compose("stop")
    print(f"stopped: after {time.monotonic() - start:.0f} s")
    codes = {
        (deployment.name(c), deployment.inspect(c)["State"]["ExitCode"])
        for c in deployment.containers(ended=True)
    }
    # The feeder says that it was not at the end of its data.
    assert codes == {(part, 130 if part == "feeder" else 0) for part in PARTS}
