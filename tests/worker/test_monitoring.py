"""A worker's health, figures and traces, on a real engine and a real server."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from service.broker import Broker
from service.settings import Settings
from service.weight_store import WeightStore
from tests.servers import Server, free_port
from tests.service.http import served
from tests.waiting import until
from tests.worker.adapters import make_adapter
from tests.worker.jobs import bdhs, ended, png, submit, working
from tests.worker.toy_engine import toy_engine
from worker.embedder import Embedder
from worker.engine import Engine
from worker.monitoring import serve_monitoring


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[Engine]:
    """An engine of these tests' own: vLLM tells the figures of the one that was started last in a
    process, and takes back those of the others."""
    async with toy_engine() as engine:
        yield engine


@pytest.fixture
def settings(own_server: Server) -> Settings:
    return Settings.model_validate({"redis_url": own_server.url, "retry_base_s": 0})


async def figures(http: httpx.AsyncClient) -> dict[str, float]:
    """Every sample's value, summed over all labels but `kind`."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families((await http.get("/metrics")).text):
        for sample in family.samples:
            if "le" not in sample.labels:
                kind = sample.labels.get("kind", "")
                name = f"{sample.name} {kind}".strip()
                found[name] = found.get(name, 0) + sample.value
    return found


async def test_health_and_figures_of_a_worker(
    settings: Settings, own_server: Server, engine: Engine, embedder: Embedder, tmp_path: Path
) -> None:
    port = free_port()
    async with (
        Broker.connect(settings) as broker,
        working(settings, engine, embedder) as worker,
        serve_monitoring("127.0.0.1", port, worker.not_ready_reason),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):

        async def ready() -> bool:
            try:
                return (await http.get("/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await until(ready)
        before = await figures(http)
        assert "process_resident_memory_bytes" in before
        adapter = make_adapter(engine.model, tmp_path / "adapter", seed=1)
        published = WeightStore(str(tmp_path / "store")).publish(adapter, 7, "lora")
        await broker.weights.announce(published)
        await broker.weights.wait_adopted(7, 60)
        await broker.weights.announce(published.model_copy(update={"version": 8}))
        await until(lambda: _refused(broker))
        await ended(broker, await submit(broker, bdhs()))
        after = await figures(http)

        def grown(name: str) -> float:
            return after[name] - before.get(name, 0)

        assert grown("prefstream_worker_job_seconds_count bdhs") == 1
        assert grown("prefstream_worker_adopt_seconds_count") == 1
        assert grown("prefstream_worker_versions_refused_total") == 1
        assert after["prefstream_worker_weight_version"] == 7
        assert after["prefstream_worker_jobs_running"] == 0
        # vLLM's own, which it counts after it has answered.
        await until(lambda: generated_since(before, http))
        assert "vllm:num_requests_running" in after

        own_server.kill()
        away = await http.get("/health/ready")
        assert (away.status_code, away.json()["reason"]) == (503, "Redis cannot be reached")
        assert (await http.get("/health/live")).status_code == 200
        own_server.start()
        await until(ready)
        worker.stop()
        assert (await http.get("/health/ready")).status_code == 503
    await engine.remove_lora(7)


async def generated_since(before: dict[str, float], http: httpx.AsyncClient) -> bool:
    name = "vllm:generation_tokens_total"
    return (await figures(http))[name] > before.get(name, 0)


async def _refused(broker: Broker) -> bool:
    return bool((await broker.weights.state()).refused)


async def test_one_trace_from_post_to_pair(
    settings: Settings, engine: Engine, embedder: Embedder, exported: InMemorySpanExporter
) -> None:
    async with working(settings, engine, embedder):
        with served(settings) as url:
            async with httpx.AsyncClient(base_url=url, timeout=120) as http:
                sent = bdhs(run="r")("sha256:" + "0" * 64).model_dump(exclude_unset=True)
                image = await http.post("/images", content=png())
                sent["images"] = [image.json()["image"]]
                answer = await http.post("/bdhs?wait_s=100", json=sent)
                assert answer.json()["status"] == "succeeded"
    spans = {span.name: span for span in exported.get_finished_spans()}
    post, job, run, finish = (spans[n] for n in ("POST /bdhs", "bdhs", "run", "finish"))
    assert len({span.context.trace_id for span in (post, job, run, finish)}) == 1
    assert job.parent.span_id == post.context.span_id
    assert run.parent.span_id == finish.parent.span_id == job.context.span_id
    assert job.attributes["prefstream.job"] == answer.json()["id"]
    assert job.attributes["prefstream.attempt"] == 1
