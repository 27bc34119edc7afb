"""A plain model of the broker in memory, and the rules of its jobs: each does one thing to both,
and compares what they answer."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
)

from service.broker import Broker, Claim, WindowFull
from service.broker.scripts import Script
from service.schemas import (
    ENDED,
    JobError,
    JobStatus,
    PairFilters,
    Priority,
    RunSettings,
)
from service.settings import Settings
from tests.servers import Server
from tests.service.samples import PAIRS, bdhs_result, enqueue_bdhs, twice

T = TypeVar("T")
OOPS = JobError(code="oops", message="It broke.")
RUNS = ("r0", "r1")
MAX_ATTEMPTS = 3
WINDOW = 6
ANSWERED_AGAIN = {
    "jobs/enqueue.lua",
    "jobs/cancel.lua",
    "jobs/retry_dead_letter.lua",
    "claims/finish.lua",
    "claims/renew.lua",
    "batches/lease.lua",
    "batches/ack.lua",
    "weights/announce.lua",
}
"""Said twice, these answer the same. The others change nothing more, and say so; but for a claim,
whose first jobs go on when their leases run out."""


@dataclass
class ModelJob:
    id: str
    run: str
    priority: Priority
    status: JobStatus = JobStatus.queued
    attempt: int = 0
    free: int = 0
    """Attempts that do not count."""
    outcome: str | None = None


@dataclass
class ModelGroup:
    taken: int = 0
    """Pairs of the log that were leased or set aside."""
    leases: dict[str, list[int]] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    stale: set[int] = field(default_factory=set)


@dataclass
class ModelRun:
    log: list[tuple[str, int | None]] = field(default_factory=list)
    """Id and version of each pair; those of data sets have none."""
    groups: dict[str, ModelGroup] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    """Ids of pairs that it keeps apart."""


class JobsMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    claims = Bundle("claims")
    server: Server
    loop: asyncio.AbstractEventLoop

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    @initialize(lossy=st.booleans())
    def begin(self, lossy: bool) -> None:
        self.server.flush()
        self.broker = Broker.connect(
            Settings.model_validate(
                {"redis_url": self.server.url, "retry_base_s": 0, "max_attempts": MAX_ATTEMPTS}
            )
        )
        if lossy:
            self.lose_replies()
        for run in RUNS:
            self.make_run(run)
        self.model: dict[str, ModelJob] = {}
        self.lanes: list[str] = []
        """Queued jobs in the order in which they are to be claimed."""
        self.runs = {run: ModelRun() for run in RUNS}
        self.version = 0
        """The newest that was announced."""
        self.served = 0
        """The newest that a live worker serves, or the last that one served."""
        self.workers: dict[str, int | None] = {}
        """What each live worker serves; None: its engine is down."""

    def teardown(self) -> None:
        if hasattr(self, "broker"):
            self.wait(self.broker.close())

    def lose_replies(self) -> None:
        """The first reply to every call of these, which is then sent again."""
        connection: Any = self.broker.connection
        for name in ("run", "run_durably"):
            once = getattr(connection, name)
            again = twice(once)

            def call(
                script: Script[..., Any], *args: Any, once: Any = once, again: Any = again
            ) -> Any:
                return (again if script.path in ANSWERED_AGAIN else once)(script, *args)

            setattr(connection, name, call)

    def make_run(self, run: str) -> None:
        bound = RunSettings(
            window=WINDOW,
            max_staleness=1,
            keep=1_000_000,
            similar="drop",
            filters=PairFilters(finish_reasons=["stop"]),
        )
        self.wait(self.broker.runs.put(run, bound))

    # --- jobs ---

    def order(self, job: ModelJob, *, front: bool) -> None:
        """Puts a job into line: by priority, and among those handed back or behind all others."""

        def rank(other: str) -> tuple[int, int]:
            return list(Priority).index(self.model[other].priority), self.fronts[other]

        self.fronts: dict[str, int] = getattr(self, "fronts", {})
        self.fronts[job.id] = 0 if front else 1
        job.status = JobStatus.queued
        self.lanes.append(job.id)
        self.lanes.sort(key=rank)  # stable

    def open_jobs(self, run: str) -> int:
        return sum(job.run == run and job.status not in ENDED for job in self.model.values())

    def waiting(self, run: str, group: str = "trainer") -> int:
        state = self.runs[run].groups.get(group, ModelGroup())
        rest = range(state.taken, len(self.runs[run].log))
        return sum(position not in state.stale for position in rest)

    @rule(target=jobs, run=st.sampled_from(RUNS), priority=st.sampled_from(Priority))
    def enqueue(self, run: str, priority: Priority) -> Any:
        if self.open_jobs(run) + self.waiting(run) >= WINDOW:
            with pytest.raises(WindowFull):
                self.wait(enqueue_bdhs(self.broker, run=run, priority=priority))
            return multiple()
        job = self.wait(enqueue_bdhs(self.broker, run=run, priority=priority))
        self.model[job.id] = ModelJob(job.id, run, priority)
        self.order(self.model[job.id], front=False)
        return job.id

    @rule(target=claims, count=st.integers(1, 4))
    def claim(self, count: int) -> Any:
        got = self.wait(self.broker.claims.claim("w", count, block_s=0))
        expected, self.lanes = self.lanes[:count], self.lanes[count:]
        assert [claim.job_id for claim in got] == expected
        for claim in got:
            job = self.model[claim.job_id]
            job.attempt += 1
            job.status = JobStatus.running
            assert claim.attempt == job.attempt
        return multiple(*got)

    def owns(self, claim: Claim) -> bool:
        job = self.model[claim.job_id]
        return job.status == JobStatus.running and job.attempt == claim.attempt

    def spent(self, job: ModelJob) -> bool:
        return job.attempt - job.free >= MAX_ATTEMPTS

    @rule(claim=claims, age=st.integers(0, 3), outcome=st.sampled_from(list(PAIRS)))
    def finish(self, claim: Claim, age: int, outcome: str = "pair") -> None:
        version = max(0, self.version - age)
        job, mine = self.model[claim.job_id], self.owns(claim)
        again = job.status == JobStatus.succeeded and job.attempt == claim.attempt
        result = bdhs_result(claim, version, **PAIRS[outcome])
        assert self.wait(self.broker.claims.finish(claim, result)) == (mine or again)
        if mine:
            job.status = JobStatus.succeeded
            job.outcome = outcome
            run = self.runs[job.run]
            run.outcomes[outcome] += 1
            if outcome == "pair":
                run.log.append((job.id, version))
            elif outcome != "same":
                run.left_out.append(job.id)

    @rule(claim=claims)
    def fail(self, claim: Claim) -> None:
        mine = self.owns(claim)
        assert self.wait(self.broker.claims.fail(claim, OOPS)) == mine
        if mine:
            self.model[claim.job_id].status = JobStatus.failed

    @rule(claim=claims, give_up=st.booleans())
    def retry(self, claim: Claim, give_up: bool) -> None:
        mine, job = self.owns(claim), self.model[claim.job_id]
        assert self.wait(self.broker.claims.retry(claim, OOPS, give_up=give_up)) == mine
        if mine:
            if give_up or self.spent(job):
                job.status = JobStatus.dead
            else:
                self.order(job, front=True)
                self.wait(self.promote())

    async def promote(self) -> None:
        """Retries are due at once; the next sweep puts them into line."""
        await self.broker.connection.redis.delete(self.broker.connection.key("swept"))
        await Broker(self.broker.connection).sweeper.sweep()

    @rule(claim=claims)
    def release(self, claim: Claim) -> None:
        mine = self.owns(claim)
        assert self.wait(self.broker.claims.release(claim)) == mine
        if mine:
            self.model[claim.job_id].free += 1
            self.order(self.model[claim.job_id], front=True)

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        lost = self.wait(self.broker.claims.renew([claim]))
        job = self.model[claim.job_id]
        mine = job.attempt == claim.attempt and job.status in (
            JobStatus.running,
            JobStatus.succeeded,
        )
        assert lost == (set() if mine else {claim.job_id})

    @rule(claim=claims)
    def lose(self, claim: Claim) -> None:
        """The worker is silent for longer than its lease."""
        if not self.owns(claim):
            return
        self.wait(self.age(claim))
        self.wait(self.promote())
        job = self.model[claim.job_id]
        if self.spent(job):
            job.status = JobStatus.dead
        else:
            self.order(job, front=True)

    async def age(self, claim: Claim) -> None:
        redis, key = self.broker.connection.redis, self.broker.connection.key
        lane, entry = await redis.hmget(key("job", claim.job_id), "lane", "entry")
        await redis.delete(key("cursors"))
        await redis.xclaim(key("lane", lane), "workers", "any", 0, [entry], idle=10**9, justid=True)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        self.wait(self.broker.jobs.cancel(job_id))
        job = self.model[job_id]
        if job.status not in ENDED:
            job.status = JobStatus.cancelled
            if job_id in self.lanes:
                self.lanes.remove(job_id)

    @rule(job_id=jobs)
    def revive(self, job_id: str) -> None:
        self.wait(self.broker.jobs.retry_dead_letter(job_id))
        job = self.model[job_id]
        if job.status == JobStatus.dead:
            job.free = job.attempt
            self.order(job, front=False)
