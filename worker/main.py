"""A worker: claim jobs, run them on the policy, renew their leases, finish them, drain at the end.

Everything that may pass (Redis away, an engine that died) is waited out here and nowhere else.
"""

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime

import structlog

from service import model_names, tracing
from service.annotator import AnnotatorUnavailable
from service.broker import KINDS, UNAVAILABLE, Broker, Claim, wait_within
from service.excerpts import excerpt
from service.schemas import JobError, WorkerInfo
from service.settings import Settings
from worker import metrics
from worker.annotators.registry import AnnotatorRegistry
from worker.embedder import Embedder
from worker.engine import Engine, EngineDied
from worker.engine.masking_check import start_unproven
from worker.engine_keeper import EngineKeeper, start_engine
from worker.handlers import Handlers, JobFailed
from worker.monitoring import serve_monitoring
from worker.plugin.families import PROVEN
from worker.reaching import reach
from worker.settings import WorkerSettings
from worker.weights.adoption import Adoption
from worker.weights.versions import WeightVersions

log = structlog.get_logger()

ENGINE_DIED = "engine_died"

PING_TIMEOUT_S = 2.0
"""Longest that whoever asks for the worker's health waits for Redis."""


class Worker:
    """One engine's share of the work."""

    def __init__(
        self,
        broker: Broker,
        engine: Engine,
        embedder: Embedder,
        settings: WorkerSettings,
    ):
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._broker = broker
        self._engine = engine
        self.versions = WeightVersions(engine, settings.fetch_timeout_s)
        """The weights that its jobs are done on."""
        self._annotators = AnnotatorRegistry(settings)
        self._handlers = Handlers(broker, engine, self.versions, embedder, self._annotators)
        self._settings = settings
        self._keeper = EngineKeeper(
            engine, self.versions, settings.engine_stall_s, self._engine_replaced
        )
        self._adoption = Adoption(
            broker,
            self.versions,
            self.id,
            engine_ready=lambda: self._keeper.ready,
            heartbeat=lambda: broker.workers.heartbeat(self._info()),
        )
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._changed = asyncio.Event()
        self._revoked = asyncio.Event()
        """Some worker has lost a job; perhaps this one."""
        self._renewed_at = 0.0
        self._retry_after_death = asyncio.Lock()
        self._ready = False
        """The newest weights, if any, are those it begins with."""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Claim nothing more; `run` drains and returns."""
        self._stopping.set()

    @property
    def running(self) -> int:
        """Jobs it works on now."""
        return len(self._running)

    async def not_ready_reason(self) -> str | None:
        """Why it can take no job now; None: it can."""
        if self._stopping.is_set():
            return "it was told to stop"
        if not self._keeper.ready:
            return "the engine is dead or stuck; another one starts"
        if not self._ready:
            return "the newest weights are not loaded yet"
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._broker.ping()
        except (*UNAVAILABLE, TimeoutError):
            return "Redis cannot be reached"
        return None

    async def run(self) -> None:
        """Work until `stop`. The engine must have been started.

        Raises: ModelConflict, EngineKeepsDying.
        """
        try:
            await self._begin()
            await self._work()
        finally:
            await self._annotators.close()
            self.versions.close()

    async def _begin(self) -> None:
        await self._adoption.begin()
        # Before the first claim: the jobs of a namespace are for its own model.
        await reach(lambda: self._broker.workers.heartbeat(self._info()))
        self._ready = True
        log.info("worker ready", worker=self.id, slots=self._settings.slots)

    async def _work(self) -> None:
        loops = [
            asyncio.create_task(loop, name=loop.__qualname__)
            for loop in (
                self._claim_jobs(),
                self._renew_leases(),
                self._send_heartbeats(),
                self._keeper.run(),
                self._adoption.run(),
            )
        ]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([*loops, stopping], return_when=asyncio.FIRST_COMPLETED)
            loops[0].cancel()
            await self._drain()
        finally:  # `run` may itself be cancelled; nothing of it works on
            tasks = [*loops, stopping, *self._running]
            for task in tasks:
                if not task.cancelling():  # a second cancel would cut short what the first began
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done - {stopping}:
            task.result()  # a loop ends only by an error that nobody expected

    # --- the loops ---

    async def _claim_jobs(self) -> None:
        while True:
            free = self._settings.slots - len(self._running)
            if not free or not self._keeper.ready:
                self._changed.clear()
                await self._changed.wait()
                continue
            asked_at = time.monotonic()
            claims = await reach(lambda n=free: self._broker.claims.claim(self.id, n, block_s=5.0))
            for claim in claims:
                self._abandon(claim.job_id)  # an attempt of ours whose lease ran out
                task = asyncio.create_task(self._work_on(claim))
                self._running[task] = claim
                task.add_done_callback(self._ended)
            if claims and self._renewed_at > asked_at:
                self._revoked.set()  # what it looked for then may have been one of these

    def _abandon(self, job_id: str) -> None:
        """Stops work on a job that is no longer ours; its engine requests are aborted."""
        for task, claim in self._running.items():
            if claim.job_id == job_id:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._changed.set()

    async def _renew_leases(self) -> None:
        """Every third of a lease, and at once when a job may have been lost. Stops while the engine
        makes no progress, so that others get the jobs."""
        async with AsyncExitStack() as listening:
            self._revoked = await reach(
                lambda: listening.enter_async_context(self._broker.claims.revoked())
            )
            while True:
                await wait_within(self._revoked, self._broker.connection.settings.lease_s / 3)
                await reach(lambda: self._broker.settings(fresh=True))
                self._renewed_at = time.monotonic()
                if self._engine.alive and self._running:
                    claims = list(self._running.values())
                    for job_id in await reach(lambda c=claims: self._broker.claims.renew(c)):
                        log.info("job is no longer ours", job=job_id)
                        self._abandon(job_id)

    async def _send_heartbeats(self) -> None:
        while True:
            await reach(lambda: self._broker.workers.heartbeat(self._info()))
            await asyncio.sleep(self._broker.connection.settings.worker_ttl_s / 3)

    def _engine_replaced(self) -> None:
        self._changed.set()

    def _info(self) -> WorkerInfo:
        return WorkerInfo(
            id=self.id,
            model=model_names.absolute_model(self._settings.model),
            weight_version=self.versions.current,
            slots=self._settings.slots,
            running=self.running,
            engine_ready=self._keeper.ready,
            heartbeat_at=datetime.now(UTC),
            kinds=list(KINDS),
            input_digest=self._engine.inputs.digest,
        )

    # --- one job ---

    async def _work_on(self, claim: Claim) -> None:
        told = {"job": claim.job_id, "attempt": claim.attempt}
        structlog.contextvars.bind_contextvars(**told, run=claim.request.run)  # this task's alone
        with (
            tracing.span(claim.kind, claim.traceparent, **told, worker=self.id),
            metrics.RUNNING.track_inprogress(),
            metrics.JOB_SECONDS.labels(claim.kind).time(),
        ):
            await self._work_while_ours(claim)

    async def _work_while_ours(self, claim: Claim) -> None:
        try:
            if any(error.code == ENGINE_DIED for error in claim.history):
                # It was there when an engine died. Suspects go one at a time, so that the second
                # death convicts the right one.
                async with self._retry_after_death:
                    await self._run_and_settle(claim)
            else:
                await self._run_and_settle(claim)
        except asyncio.CancelledError:  # no longer ours, or the worker stops and hands it back
            if not self._stopping.is_set():
                metrics.LEASES_LOST.inc()

    async def _run_and_settle(self, claim: Claim) -> None:
        if not self._keeper.ready:  # it died since this was claimed, and not of this
            await reach(lambda: self._broker.claims.release(claim))
            return
        try:
            with tracing.span("run"):
                result = await self._handlers.run(claim)
        except JobFailed as failure:
            error = failure.error
            log.warning("job failed", code=error.code, reason=error.message)
            await reach(lambda: self._broker.claims.fail(claim, error))
        except EngineDied as died:
            if self._keeper.blames_engine:
                await reach(lambda: self._broker.claims.release(claim))
                return
            again = any(error.code == ENGINE_DIED for error in claim.history)
            error = JobError(code=ENGINE_DIED, message=str(died))
            log.warning("attempt failed", code=error.code, reason=error.message)
            await reach(lambda: self._broker.claims.retry(claim, error, give_up=again))
        except AnnotatorUnavailable as away:
            error = JobError(code="annotator_unavailable", message=str(away))
            log.warning("attempt failed", code=error.code, reason=error.message)
            await reach(lambda: self._broker.claims.retry(claim, error))
        except UNAVAILABLE as away:
            error = JobError(code="redis_unavailable", message=str(away))
            log.warning("attempt failed", code=error.code, reason=error.message)
            await reach(lambda: self._broker.claims.retry(claim, error))
        except Exception as unexpected:
            log.exception("job broke")
            reason = excerpt(f"{type(unexpected).__name__}: {unexpected}")
            error = JobError(code="internal", message=reason)
            await reach(lambda: self._broker.claims.retry(claim, error))
        else:
            self._keeper.job_done()
            with tracing.span("finish"):
                done = await reach(lambda: self._broker.claims.finish(claim, result))
            if done:
                log.info("job done")
            else:
                log.info("job was superseded; its result is thrown away")
                metrics.LEASES_LOST.inc()

    # --- the end ---

    async def _drain(self) -> None:
        """Let running jobs end, up to a deadline; hand the rest back at once."""
        if self._running:
            log.info("draining", jobs=len(self._running), at_most_s=self._settings.drain_s)
            await asyncio.wait(self._running, timeout=self._settings.drain_s)
        for task, claim in list(self._running.items()):
            task.cancel()
            with suppress(*UNAVAILABLE):  # then the lease runs out
                await self._broker.claims.release(claim)
        with suppress(*UNAVAILABLE):
            await self._broker.workers.unregister(self.id)


async def run_worker(
    settings: WorkerSettings, service_settings: Settings, stop_on: Sequence[signal.Signals]
) -> None:
    """A worker from start to end, which the first of the given signals brings about.

    Raises: ModelConflict, UnusableServer, EngineKeepsDying; what `Engine.start` raises.
    """
    loop = asyncio.get_running_loop()
    worker: Worker | None = None

    async def not_ready_reason() -> str | None:
        return "the engine starts" if worker is None else await worker.not_ready_reason()

    async with (
        Broker.connect(service_settings) as broker,
        serve_monitoring(settings.metrics_host, settings.metrics_port, not_ready_reason),
    ):
        engine = Engine(settings)
        starting = asyncio.create_task(_start(broker, engine, settings))
        for number in stop_on:
            loop.add_signal_handler(number, starting.cancel)
        try:
            embedder = await starting
            worker = Worker(broker, engine, embedder, settings)
            for number in stop_on:
                loop.add_signal_handler(number, worker.stop)
            await worker.run()
        except asyncio.CancelledError:
            log.info("stopped before it was ready")
        finally:
            engine.stop()


async def _start(broker: Broker, engine: Engine, settings: WorkerSettings) -> Embedder:
    await asyncio.to_thread(engine.read_config)
    # Loading may take minutes; the first heartbeat checks this again.
    try:
        await broker.workers.check(model_names.absolute_model(settings.model), engine.inputs.digest)
    except UNAVAILABLE as error:
        log.warning("redis is away", reason=str(error))
    embedder = await asyncio.to_thread(Embedder, settings.embedder)
    if engine.architecture in PROVEN:
        await start_engine(engine, settings.engine_stall_s)
    else:
        await start_unproven(engine)
    return embedder
