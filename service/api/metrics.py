"""/metrics, for Prometheus."""

import time
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.dependencies import AppStateDep
from service.broker import Stats
from service.schemas import Weights

router = APIRouter(tags=["health"])


class HttpMetrics:
    """One registry an app, so that several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "prefstream_http_request_duration_seconds",
            "From a request's first byte to its answer's last.",
            ["method", "route", "status"],
            registry=self.registry,
        )


class LatencyMiddleware:
    """Times every request under the template of its route."""

    def __init__(self, app: ASGIApp, http_metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = http_metrics

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
            self._metrics.latency.labels(scope["method"], route, status).observe(taken)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "In Prometheus' text format."}},
)
async def metrics(request: Request, app_state: AppStateDep) -> Response:
    http_metrics: HttpMetrics = request.app.state.http_metrics
    snapshot = CollectorRegistry()
    snapshot.register(
        _BrokerCollector(await app_state.broker.stats(), await app_state.broker.weights.state())
    )
    text = generate_latest(http_metrics.registry) + generate_latest(snapshot)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _BrokerCollector(Collector):
    """The broker's stats at one moment. All replicas of the service report the same."""

    def __init__(self, stats: Stats, weights: Weights) -> None:
        self._stats = stats
        self._weights = weights

    def collect(self) -> Iterator[Metric]:
        yield from self._of_jobs()
        yield from self._of_runs()
        yield from self._of_weights()

    def _of_jobs(self) -> Iterator[Metric]:
        stats = self._stats
        queued = GaugeMetricFamily("prefstream_jobs_queued", "Jobs in line.", labels=["priority"])
        oldest = GaugeMetricFamily(
            "prefstream_queue_oldest_seconds",
            "How long the first in line has waited.",
            labels=["priority"],
        )
        for priority, count in stats.queued.items():
            queued.add_metric([priority], count)
            oldest.add_metric([priority], stats.wait_s[priority])
        yield queued
        yield oldest
        yield GaugeMetricFamily("prefstream_jobs_running", "Jobs under lease.", stats.running)
        yield GaugeMetricFamily(
            "prefstream_jobs_retrying", "Jobs that wait for their next attempt.", stats.retrying
        )
        yield GaugeMetricFamily(
            "prefstream_dead_letters", "Jobs that used up their attempts.", stats.dead_letters
        )
        ended = CounterMetricFamily("prefstream_jobs_ended", "Jobs that ended.", labels=["status"])
        for status, count in stats.ended.items():
            ended.add_metric([status], count)
        yield ended
        yield CounterMetricFamily(
            "prefstream_leases_lost", "Attempts whose worker fell silent.", stats.leases_lost
        )

    def _of_runs(self) -> Iterator[Metric]:
        pairs = CounterMetricFamily("prefstream_pairs", "Pairs appended to logs.", labels=["run"])
        open_jobs = GaugeMetricFamily("prefstream_run_open_jobs", "Open jobs.", labels=["run"])
        outcomes = CounterMetricFamily(
            "prefstream_outcomes",
            "What came of jobs that could make a pair, and of pairs of data sets.",
            labels=["run", "outcome"],
        )
        filtered = CounterMetricFamily(
            "prefstream_filtered", "Pairs left out, by filter.", labels=["run", "filter"]
        )
        for name, run in self._stats.runs.items():
            pairs.add_metric([name], run.pairs)
            open_jobs.add_metric([name], run.open_jobs)
            for outcome, count in run.outcomes.items():
                outcomes.add_metric([name, outcome], count)
            for one, count in run.filtered.items():
                filtered.add_metric([name, one], count)
        yield from (pairs, open_jobs, outcomes, filtered)
        labels = ["run", "group"]
        waiting = GaugeMetricFamily(
            "prefstream_pairs_waiting", "Pairs that the group has not taken.", labels=labels
        )
        acknowledged = CounterMetricFamily(
            "prefstream_pairs_acknowledged", "Pairs that it has acknowledged.", labels=labels
        )
        stale = CounterMetricFamily(
            "prefstream_pairs_stale", "Pairs set aside as too stale.", labels=labels
        )
        staleness = SummaryMetricFamily(
            "prefstream_staleness_versions",
            "Weight versions that policy-made pairs lagged behind when they were leased.",
            labels=labels,
        )
        for group in self._stats.groups:
            of = [group.run, group.group]
            waiting.add_metric(of, group.waiting)
            acknowledged.add_metric(of, group.acknowledged)
            stale.add_metric(of, group.stale)
            staleness.add_metric(
                of, count_value=group.staleness_count, sum_value=group.staleness_sum
            )
        yield from (waiting, acknowledged, stale, staleness)

    def _of_weights(self) -> Iterator[Metric]:
        newest = self._weights.newest
        yield GaugeMetricFamily(
            "prefstream_weight_version_newest",
            "The newest version that was announced.",
            newest.version if newest else 0,
        )
        serves = GaugeMetricFamily(
            "prefstream_weight_version",
            "What a live worker gives to new jobs.",
            labels=["worker"],
        )
        ready = GaugeMetricFamily(
            "prefstream_worker_ready", "1: the worker's engine is up.", labels=["worker"]
        )
        for worker in self._weights.workers:
            serves.add_metric([worker.id], worker.weight_version)
            ready.add_metric([worker.id], worker.engine_ready)
        yield serves
        yield ready
