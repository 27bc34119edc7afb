"""The broker against a plain model of it in memory, on a real server (hypothesis).

Every rule does one thing to both and compares what they answer; after every rule, all that can be
seen of the broker is compared with the model. Leases never run out by themselves here: the rule
`lose` lets one do so, by asking the server to take the entry for old.
"""

import asyncio
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from service.broker import LeaseLost, LogChanged, RunBusy, WindowFull
from service.schemas import ENDED, JobStatus, LeaseRequest, PairRequest, Priority
from tests.servers import Server
from tests.service.broker.jobs_machine import RUNS, WINDOW, JobsMachine, ModelGroup, ModelRun
from tests.service.leaks import find_leaks
from tests.service.samples import serve, weight_version

EXAMPLES = int(os.environ.get("PREFSTREAM_MODEL_EXAMPLES", "60"))
"""If it is set, the examples are new ones every time."""

GROUPS = ("trainer", "other")


class BrokerMachine(JobsMachine):
    leases = Bundle("leases")

    # --- batches ---

    @rule(run=st.sampled_from(RUNS), age=st.integers(0, 3), count=st.integers(1, 4))
    def make_pairs(self, run: str, age: int, count: int) -> None:
        """A short way to a log with something in it."""
        for _ in range(count):
            self.enqueue(run=run, priority=Priority.normal)
        for claim in self.claim(count=100).values:
            self.finish(claim=claim, age=age)

    @rule(run=st.sampled_from(RUNS), number=st.integers(0, 3))
    def append(self, run: str, number: int) -> None:
        """A pair of a data set, perhaps one that is there."""
        request = PairRequest(
            prompt="?", chosen=f"Yes, {number}.", rejected="No.", pair_id=f"p{number}"
        )
        entry = (f"p{number}", None)
        log = self.runs[run].log
        if entry not in log and self.open_jobs(run) + self.waiting(run) >= WINDOW:
            with pytest.raises(WindowFull):
                self.wait(self.broker.runs.append(run, request))
            return
        appended = self.wait(self.broker.runs.append(run, request))
        assert appended.repeated == (entry in log)
        if not appended.repeated:
            log.append(entry)
            self.runs[run].outcomes["pair"] += 1

    @rule()
    def announce(self) -> None:
        self.version += 1
        self.wait(self.broker.weights.announce(weight_version(self.version)))

    @rule(behind=st.integers(0, 2), worker=st.sampled_from("ab"), ready=st.booleans())
    def serve(self, behind: int, worker: str, ready: bool) -> None:
        version = max(0, self.version - behind)
        self.wait(serve(self.broker, version, worker, engine_ready=ready))
        self.workers[worker] = version if ready else None
        self.count_served()

    @rule(worker=st.sampled_from("ab"))
    def stop_serving(self, worker: str) -> None:
        self.wait(self.broker.workers.unregister(worker))
        self.workers.pop(worker, None)
        self.count_served()

    def count_served(self) -> None:
        self.served = max((v for v in self.workers.values() if v is not None), default=self.served)

    @rule(
        target=leases,
        run=st.sampled_from(RUNS),
        group=st.sampled_from(GROUPS),
        size=st.integers(1, 4),
        full=st.booleans(),
    )
    def lease(self, run: str, group: str, size: int, full: bool) -> Any:
        request = LeaseRequest(group=group, size=size, min_size=size if full else 1)
        batch = self.wait(self.broker.batches.lease(run, request))
        log = self.runs[run].log
        state = self.runs[run].groups.setdefault(group, ModelGroup())

        picked: list[int] = []
        taken = state.taken
        for position in [*sorted(state.again), *range(state.taken, len(log))]:
            if len(picked) == size:
                break
            if position in state.stale:
                taken = max(taken, position + 1)
            elif self.lag(log[position][1]) > 1:
                state.stale.add(position)
                if position in state.again:
                    state.again.remove(position)
                taken = max(taken, position + 1)
            else:
                picked.append(position)
                taken = max(taken, position + 1)
        if not picked:
            state.taken = taken
        if len(picked) < (min(size, WINDOW) if full else 1):
            assert batch is None
            return multiple()
        assert batch is not None
        assert [pair.pair_id for pair in batch.pairs] == [log[p][0] for p in picked]
        state.taken = taken
        state.again = [position for position in state.again if position not in picked]
        state.leases[batch.lease] = picked
        return run, group, batch.lease

    @rule(lease=leases)
    def lease_again(self, lease: tuple[str, str, str]) -> None:
        """With the token of a lease that stands, or is used up."""
        run, group, name = lease
        request = LeaseRequest(group=group, size=1, token=name.rpartition("~")[2])
        state = self.runs[run].groups.get(group)
        if state and name in state.leases:
            batch = self.wait(self.broker.batches.lease(run, request))
            assert batch is not None
            held = [self.runs[run].log[position][0] for position in state.leases[name]]
            assert (batch.lease, [pair.pair_id for pair in batch.pairs]) == (name, held)
        elif name.startswith(self.wait(self.broker.runs.get(run)).epoch):  # pyright: ignore[reportOptionalMemberAccess]
            with pytest.raises(LeaseLost):
                self.wait(self.broker.batches.lease(run, request))

    def lag(self, version: int | None) -> int:
        return 0 if version is None else max(0, self.served - version)

    @rule(lease=leases)
    def ack(self, lease: tuple[str, str, str]) -> None:
        run, group, token = lease
        state = self.runs[run].groups.get(group)
        if state and token in state.leases:
            self.wait(self.broker.batches.ack(run, token))
            state.acknowledged |= set(state.leases.pop(token))

    @rule(lease=consumes(leases))
    def nack(self, lease: tuple[str, str, str]) -> None:
        run, group, token = lease
        state = self.runs[run].groups.get(group)
        if state and token in state.leases:
            self.wait(self.broker.batches.nack(run, token))
            state.again += state.leases.pop(token)
        else:
            with pytest.raises((LeaseLost, LogChanged)):
                self.wait(self.broker.batches.nack(run, token))

    # --- runs ---

    @rule(run=st.sampled_from(RUNS), force=st.booleans())
    def delete(self, run: str, force: bool) -> None:
        """And makes it anew."""
        leased = any(group.leases for group in self.runs[run].groups.values())
        if not force and (leased or self.open_jobs(run)):
            with pytest.raises(RunBusy):
                self.wait(self.broker.runs.delete(run))
            return
        self.wait(self.broker.runs.delete(run, force=force))
        for job in self.model.values():
            if job.run == run and job.status not in ENDED:
                job.status = JobStatus.cancelled
                if job.id in self.lanes:
                    self.lanes.remove(job.id)
        self.runs[run] = ModelRun()
        self.make_run(run)

    # --- what must always hold ---

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "model"):
            self.wait(self._agrees())

    async def _agrees(self) -> None:
        for job in self.model.values():
            seen = await self.broker.jobs.get(job.id)
            assert seen is not None
            assert (seen.status, seen.attempt) == (job.status, job.attempt)
            assert (seen.result and seen.result.outcome) == job.outcome
        for name, run in self.runs.items():
            page = await self.broker.runs.pairs(name, None, 1000)
            assert [pair.pair_id for pair in page.pairs] == [job for job, _ in run.log]
            state = await self.broker.runs.get(name)
            assert state is not None
            assert (state.pairs, state.open_jobs) == (len(run.log), self.open_jobs(name))
            assert state.outcomes == run.outcomes
            filtered = await self.broker.runs.filtered(name, None, 1000)
            assert [left_out.pair.pair_id for left_out in filtered.pairs] == run.left_out
            groups = {group.name: group for group in state.groups}
            assert set(groups) == set(run.groups)
            for group, model in run.groups.items():
                seen_group = groups[group]
                assert (
                    seen_group.waiting,
                    seen_group.leased,
                    seen_group.returned,
                    seen_group.acknowledged,
                    seen_group.stale,
                ) == (
                    self.waiting(name, group),
                    sum(map(len, model.leases.values())),
                    len(model.again),
                    len(model.acknowledged),
                    len(model.stale),
                )
        assert await find_leaks(self.broker) == []


@pytest.mark.timeout(1200)  # a failure takes its time to be made small
def test_the_broker_does_as_its_model(any_server: Server) -> None:
    with asyncio.Runner() as runner:

        class Machine(BrokerMachine):
            server = any_server
            loop = runner.get_loop()

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize="PREFSTREAM_MODEL_EXAMPLES" not in os.environ,
            ),
        )
