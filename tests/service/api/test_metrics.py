"""What /metrics tells."""

import re
from datetime import UTC, datetime

import httpx

from service.broker import Broker
from service.schemas import LeaseRequest, WorkerInfo
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served
from tests.service.samples import append, claim_one, enqueue, sample_result, weight_version
from tests.waiting import until

INFO = WorkerInfo(
    id="w1",
    model="toy",
    weight_version=3,
    slots=4,
    running=0,
    engine_ready=True,
    heartbeat_at=datetime(2026, 1, 1, tzinfo=UTC),
)


async def test_metrics_tell_the_figures(http: httpx.AsyncClient, worker: Broker) -> None:
    await enqueue(worker, run="r", priority="high")
    await worker.claims.finish(await claim_one(worker), sample_result())
    await enqueue(worker, run="r")
    text = (await http.get("/metrics")).text
    assert 'prefstream_jobs_queued{priority="normal"} 1.0' in text
    assert 'prefstream_jobs_ended_total{status="succeeded"} 1.0' in text
    assert 'prefstream_run_open_jobs{run="r"} 1.0' in text
    await http.get("/jobs/x")
    text = (await http.get("/metrics")).text
    assert 'route="/jobs/{job_id}",status="404"' in text


async def test_metrics_tell_of_lines_groups_and_versions(
    http: httpx.AsyncClient, worker: Broker
) -> None:
    await append(worker, 3, run="r", version=1)
    for version in (2, 4):
        await worker.weights.announce(weight_version(version))
    await worker.workers.heartbeat(INFO)
    await worker.batches.lease("r", LeaseRequest(size=2))
    await enqueue(worker)
    await until(lambda: _waits(http))
    text = (await http.get("/metrics")).text
    of = '{group="trainer",run="r"}'
    assert f"prefstream_pairs_waiting{of} 1.0" in text
    assert f"prefstream_staleness_versions_count{of} 2.0" in text
    assert f"prefstream_staleness_versions_sum{of} 4.0" in text
    assert "prefstream_weight_version_newest 4.0" in text
    assert 'prefstream_weight_version{worker="w1"} 3.0' in text
    assert 'prefstream_worker_ready{worker="w1"} 1.0' in text


async def _waits(http: httpx.AsyncClient) -> bool:
    """The job in line is seen to wait, and the empty lines are not."""
    text = (await http.get("/metrics")).text
    [waited] = re.findall(r'queue_oldest_seconds{priority="normal"} (.*)', text)
    assert 'queue_oldest_seconds{priority="low"} 0.0' in text
    return float(waited) > 0


async def test_leases_lost_are_counted(own_server: Server) -> None:
    settings = Settings.model_validate({"redis_url": own_server.url, "lease_s": 0.1})
    async with Broker.connect(settings) as worker:
        await enqueue(worker)
        await claim_one(worker)
        await claim_one(worker)  # again, once the first lease ran out
        with served(settings) as url:
            async with httpx.AsyncClient(base_url=url) as http:
                text = (await http.get("/metrics")).text
    [lost] = re.findall(r"^prefstream_leases_lost_total (.*)", text, re.MULTILINE)
    assert float(lost) >= 1  # the second may have run out as well
    assert "leases_lost" not in re.findall(r"prefstream_jobs_ended.*", text)
