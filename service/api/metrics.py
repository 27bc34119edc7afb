"""/metrics, for Prometheus."""

import time
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.context import Shared
from service.broker import Figures

router = APIRouter(tags=["health"])


class Meters:
    """One registry an app, so that several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "prefstream_http_request_duration_seconds",
            "From a request's first byte to its answer's last.",
            ["method", "route", "status"],
            registry=self.registry,
        )


class Timing:
    """Times every request under the template of its route."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        start = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            taken = time.perf_counter() - start
            self._meters.latency.labels(scope["method"], route, status).observe(taken)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request, shared: Shared) -> Response:
    meters: Meters = request.app.state.meters
    figures = CollectorRegistry()
    figures.register(_Snapshot(await shared.broker.figures()))
    text = generate_latest(meters.registry) + generate_latest(figures)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Snapshot(Collector):
    """The broker's figures at one moment. All replicas of the service report the same."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures
        queued = GaugeMetricFamily("prefstream_jobs_queued", "Jobs in line.", labels=["priority"])
        for priority, count in figures.queued.items():
            queued.add_metric([priority], count)
        yield queued
        yield GaugeMetricFamily("prefstream_jobs_running", "Jobs under lease.", figures.running)
        yield GaugeMetricFamily(
            "prefstream_jobs_retrying", "Jobs that wait for their next attempt.", figures.retrying
        )
        yield GaugeMetricFamily(
            "prefstream_dead_letters", "Jobs that used up their attempts.", figures.dead_letters
        )
        ended = CounterMetricFamily("prefstream_jobs_ended", "Jobs that ended.", labels=["status"])
        for status, count in figures.ended.items():
            ended.add_metric([status], count)
        yield ended
        pairs = CounterMetricFamily("prefstream_pairs", "Pairs appended to logs.", labels=["run"])
        open_jobs = GaugeMetricFamily("prefstream_run_open_jobs", "Open jobs.", labels=["run"])
        for run, (count, opened) in figures.runs.items():
            pairs.add_metric([run], count)
            open_jobs.add_metric([run], opened)
        yield pairs
        yield open_jobs
