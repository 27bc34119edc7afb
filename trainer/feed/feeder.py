"""Feeds a data set into a run: as fast as the run's window lets it in, and each example once.

Every post carries a key made of the data set, the row, the epoch, the run's log and the request, so
that whatever is sent twice (after a lost answer, a restart, a Ctrl-C) is the same job or pair.
Beyond the day that the service remembers keys for, the cursor knows what was accepted.
"""

import asyncio
import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import JsonValue

from service.client import (
    AsyncClient,
    ImageGone,
    InvalidRequest,
    JobGone,
    NotFound,
    RunNotFound,
    retry,
)
from service.schemas import (
    BdhsRequest,
    Job,
    JobStatus,
    Message,
    Outcome,
    PairRequest,
    Run,
    RunSettings,
    SampleRequest,
    TextPart,
    outcome_of_texts,
    user_turn,
)
from trainer import data
from trainer.data import SECOND_REJECTED, Example, InvalidDataset, InvalidRow
from trainer.data.example import BadRow, ImageSource
from trainer.data.images import load_image
from trainer.feed.cursor import Cursor

T = TypeVar("T")

Method = Literal["bdhs", "online", "offline"]
Request = BdhsRequest | SampleRequest | PairRequest

REQUESTS: dict[Method, type[Request]] = {
    "bdhs": BdhsRequest,
    "online": SampleRequest,
    "offline": PairRequest,
}

REFS_KEPT = 4096
"""Stored images that are remembered by their file; rows about one image tend to come together."""


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """What is fed, and how."""

    dataset: str
    run: str
    method: Method
    fields: dict[str, Any] = field(default_factory=dict)
    """Of every request: `rho`, `temperature`, `annotator` and so on."""
    dataset_format: str | None = None
    system: str | None = None
    """Text of a system turn, put before every conversation that has none."""
    images: tuple[Path, ...] = ()
    limit: int | None = None
    """Examples of the data set, at most."""
    epochs: int = 1
    seed: int = 0
    """Other seeds make other jobs of the same rows."""
    skip_bad: bool = False
    in_flight: int = 8
    """Examples that are being sent at once."""
    window: int | None = None
    """Of the run, if it shall be another than it is."""

    @property
    def digest(self) -> str:
        """The same for plans that a cursor can be shared between."""
        what = [self.dataset, self.dataset_format, self.run, self.method, self.seed, self.fields]
        if self.system is not None:
            what.append(self.system)
        return _sha256(json.dumps(what, sort_keys=True))[:16]

    def request(self, example: Example, refs: list[str], epoch: int = 0) -> Request:
        """Raises: ValueError (pydantic's, too): the example does not fit the method."""
        metadata: dict[str, JsonValue] = {
            "dataset": self.dataset,
            "row": example.key,
            "epoch": epoch,
            **example.metadata,
        }
        common: dict[str, Any] = {
            "messages": self._with_system(example.messages),
            "images": refs,
            "metadata": metadata,
        }
        if self.method == "offline":
            return PairRequest(chosen=example.chosen, rejected=example.rejected or "", **common)
        seed = int(_sha256(f"{self.seed} {epoch} {example.key}")[:13], 16)
        common |= {"run": self.run, "seed": seed, **self.fields}
        if self.method == "bdhs":
            if example.rejected is not None:
                metadata[SECOND_REJECTED] = example.rejected
            return BdhsRequest(reference=example.chosen, **common)
        common.setdefault("n", 2)
        return SampleRequest(**common)

    def _with_system(self, messages: list[Message]) -> list[Message]:
        if self.system is None or any(message.role == "system" for message in messages):
            return messages
        return [Message(role="system", content=[TextPart(text=self.system)]), *messages]

    def check(self) -> None:
        """Raises: ValueError (pydantic's, too), for `fields` that no request can have."""
        if self.system is not None and not self.system.strip():
            raise ValueError("--system is empty: give its text, or leave it out")
        if self.method == "online" and "annotator" not in self.fields:
            raise ValueError("--method online needs an --annotator: self, openai, or one in Python")
        example = Example([user_turn("?", 1)], (), chosen="Yes.", rejected="No.", key="0.0")
        self.request(example, ["sha256:" + "0" * 64])


@dataclass(slots=True)
class FeedStats:
    """What became of the examples since this feeder began."""

    skipped: int = 0
    """Accepted before, as the cursor says."""
    accepted: int = 0
    pairs: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """What made no pair, by the job's outcome or its error's code."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Of each, the first: which job or row, and why."""
    bad: Counter[BadRow] = field(default_factory=Counter)
    """Rows that could not be used, by kind."""
    first_bad: dict[BadRow, str] = field(default_factory=dict)
    """Of each, the first: which row, and why."""

    def fail(self, code: str, reason: str) -> None:
        self.failed[code] += 1
        self.reasons.setdefault(code, reason)


class Feeder:
    def __init__(self, client: AsyncClient, plan: FeedPlan, marks: Path) -> None:
        """`marks`: the folder of the file that says how far it has come."""
        self.plan = plan
        self.stats = FeedStats()
        self.resumed = False
        """It went on where another had stopped."""
        self.finished_before = False
        """There was nothing left to feed."""
        self._client = client
        self._marks = marks
        self._log = ""
        self._refs: OrderedDict[Path, str] = OrderedDict()
        self._reading = asyncio.Lock()
        self._jobs: asyncio.Queue[str | None] = asyncio.Queue()

    async def feed(self) -> None:
        """To the end of the data set, and of its jobs. Cancel it to stop: it goes on from there.

        Raises: InvalidDataset, InvalidRow, PrefstreamError (what the service takes from nobody).
        """
        run = await self._retry(self._prepare_run)
        self._log = run.epoch
        cursor = Cursor(self._marks / f"{self.plan.run}-{self.plan.digest}.json", run.epoch)
        self.resumed = not cursor.fresh
        self.finished_before = cursor.epoch >= self.plan.epochs
        watching = asyncio.create_task(self._watch())
        try:
            while cursor.epoch < self.plan.epochs:
                examples = iter(self._examples(cursor))
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.plan.in_flight):
                        group.create_task(self._send_all(examples, cursor))
                cursor.next_epoch()
            self._jobs.put_nowait(None)
            await watching
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            watching.cancel()

    async def _prepare_run(self) -> Run:
        window = self.plan.window
        try:
            run = await self._client.run(self.plan.run)
        except RunNotFound:
            settings = RunSettings() if window is None else RunSettings(window=window)
            return await self._client.put_run(self.plan.run, settings)
        if window is None or window == run.settings.window:
            return run
        settings = run.settings.model_copy(update={"window": window})
        return await self._client.put_run(self.plan.run, settings)

    def _examples(self, cursor: Cursor) -> Iterator[Example]:
        """What is left of this epoch."""
        plan = self.plan
        found = data.read(
            plan.dataset,
            dataset_format=plan.dataset_format,
            images=plan.images,
            on_invalid=self._leave_out if plan.skip_bad else None,
        )
        for example in islice(found, plan.limit):
            if cursor.has(example.key):
                self.stats.skipped += 1
                continue
            if plan.method == "offline" and example.rejected is None:
                raise InvalidDataset(
                    f"{plan.dataset} has references, and no rejected sides: there are no pairs for "
                    "--method offline. bdhs and online make them."
                )
            yield example

    def _leave_out(self, bad: InvalidRow) -> None:
        self.stats.bad[bad.kind] += 1
        self.stats.first_bad.setdefault(bad.kind, str(bad))

    async def _send_all(self, examples: Iterator[Example], cursor: Cursor) -> None:
        while True:
            async with self._reading:
                example = await asyncio.to_thread(next, examples, None)
                if example is None:
                    return
                cursor.give(example.key)
            try:
                await self._send(example, cursor.epoch)
                self.stats.accepted += 1
            except InvalidRow as bad:
                if not self.plan.skip_bad:
                    raise
                self._leave_out(bad)
            cursor.done(example.key)

    async def _send(self, example: Example, epoch: int) -> None:
        """Raises: InvalidRow."""
        if self.plan.method == "offline":
            outcome = outcome_of_texts(example.chosen, example.rejected or "")
            if outcome is not Outcome.pair:
                self.stats.fail(outcome, example.place)
                return
        try:
            while True:
                refs = [await self._stored(source) for source in example.images]
                try:
                    await self._post(example, self.plan.request(example, refs, epoch), epoch)
                except ImageGone:
                    self._refs.clear()  # the wait for the window outlived the images
                else:
                    return
        except ValueError as error:
            raise InvalidRow.of(example.place, error, "refused") from error
        except InvalidRequest as error:
            raise InvalidRow(example.place, error.problem.detail, "refused") from error

    async def _stored(self, source: ImageSource) -> str:
        """The hash under which the service has the image."""
        if isinstance(source, Path) and source in self._refs:
            self._refs.move_to_end(source)
            return self._refs[source]
        content = await asyncio.to_thread(load_image, source)
        stored = await self._retry(lambda: self._client.store_image(content))
        if isinstance(source, Path):
            self._refs[source] = stored.image
            if len(self._refs) > REFS_KEPT:
                self._refs.popitem(last=False)
        return stored.image

    async def _post(self, example: Example, request: Request, epoch: int) -> None:
        # By this the service knows that it was sent this before, for the same log.
        content = [self.plan.dataset, example.key, epoch, self._log, request.model_dump_json()]
        key, client = _sha256(json.dumps(content)), self._client
        if isinstance(request, PairRequest):
            pair = request.model_copy(update={"pair_id": key})
            appended = await self._retry(lambda: client.append(self.plan.run, pair))
            if appended.outcome == Outcome.pair:
                self.stats.pairs += 1
            else:
                reason = f"{example.place}, beyond {', '.join(appended.filters)}"
                self.stats.fail(appended.outcome, reason)
            return
        try:
            if isinstance(request, BdhsRequest):
                job = await self._retry(lambda: client.bdhs(request, idempotency_key=key))
            else:
                job = await self._retry(lambda: client.sample(request, idempotency_key=key))
        except JobGone as gone:  # accepted before, and ended: nobody knows any more how
            self.stats.fail(gone.problem.code, gone.problem.detail)
            return
        self._jobs.put_nowait(job.id)

    async def _watch(self) -> None:
        """What becomes of the jobs, in the order in which they were accepted."""
        while (job_id := await self._jobs.get()) is not None:
            try:
                job = await self._retry(lambda j=job_id: self._client.wait(j))
            except NotFound as error:  # it ended, and its retention has, too
                self.stats.fail(error.problem.code, error.problem.detail)
            else:
                self._count(job)

    def _count(self, job: Job) -> None:
        if job.result is not None and not job.result.pairs:
            self.stats.fail(job.result.outcome or "no annotator", f"job {job.id}")
        elif job.status == JobStatus.succeeded:
            self.stats.pairs += 1
        elif job.error is None:
            self.stats.fail(job.status, f"job {job.id}")
        else:
            self.stats.fail(job.error.code, f"job {job.id}: {job.error.message}")

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's answer, however long the window is full or the service away. The client
        repeats it for a while; this goes on."""
        return await retry(call, for_s=float("inf"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
