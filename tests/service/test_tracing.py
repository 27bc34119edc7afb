"""Traces go with the job through the queue; without them nothing is imported."""

import os
import subprocess
import sys

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import tracing
from service.broker import Broker
from tests.servers import Server
from tests.service.conftest import api_settings
from tests.service.http import served
from tests.service.samples import claim_one, sample_result


async def test_a_job_carries_the_trace_of_its_request(
    server: Server, exported: InMemorySpanExporter, worker: Broker
) -> None:
    callers = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with served(api_settings(server)) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            await http.get("/health/ready")
            await http.post("/sample", json={"prompt": "?"}, headers={"traceparent": callers})
    [request] = exported.get_finished_spans()
    assert request.name == "POST /sample"
    claim = await claim_one(worker)
    assert claim.traceparent == f"00-{callers[3:35]}-{_id(request)}-01"
    with tracing.span("sample", claim.traceparent, job=claim.job_id):
        assert tracing.headers()["traceparent"].startswith(f"00-{callers[3:35]}-")
        await worker.claims.finish(claim, sample_result())
    [_, job] = exported.get_finished_spans()
    assert job.parent is not None
    assert f"{job.parent.span_id:016x}" == _id(request)
    assert job.attributes == {"prefstream.job": claim.job_id}


@pytest.mark.parametrize("parent", ["", "nonsense", "00-0-0-01", "x" * 10_000])
def test_what_is_no_traceparent_begins_a_trace(exported: InMemorySpanExporter, parent: str) -> None:
    with tracing.span("job", parent):
        assert len(tracing.traceparent()) == 55
    [span] = exported.get_finished_spans()
    assert span.parent is None


async def test_without_traces_jobs_carry_nothing(worker: Broker, http: httpx.AsyncClient) -> None:
    await http.post("/sample", json={"prompt": "?"})
    assert (await claim_one(worker)).traceparent == ""
    with tracing.span("job", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        assert tracing.headers() == {}


@pytest.mark.parametrize("asked_for", [False, True])
def test_opentelemetry_is_imported_only_where_it_is_asked_for(asked_for: bool) -> None:
    # redis-py imports OpenTelemetry's API and SDK by itself, where they are installed.
    parts = ["opentelemetry.exporter", "opentelemetry.instrumentation"]
    program = f"""
import sys
PARTS = {parts}
from service import tracing
from service.api import create_app
from service.settings import Settings
tracing.configure("prefstream-test")
create_app(Settings(redis_url="redis://127.0.0.1:1/0"))
with tracing.span("job"):
    print(len(tracing.traceparent()), [name for name in PARTS if name in sys.modules])
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    if asked_for:
        # Nobody listens there; what cannot be sent harms nobody.
        environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1/",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    expected = f"55 {parts}" if asked_for else "0 []"
    assert (done.stdout.strip(), done.returncode) == (expected, 0), done.stderr


def test_the_endpoint_is_opentelemetrys_own_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert tracing.endpoint() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/")
    assert tracing.endpoint() == "http://collector:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces/here")
    assert tracing.endpoint() == "http://traces/here"


def _id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"
