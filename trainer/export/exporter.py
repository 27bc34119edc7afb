"""Reads a run's pairs page by page, and leaves them in a folder as a trainer takes them.

In memory are a page of the log, the pictures of some pairs, and a group of rows: however long the
run is. It reads the log and takes no lease, so no trainer misses a pair by it.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog

from service.client import AsyncClient, ImageGone, RunNotFound, TemporaryError
from service.pair_figures import beyond
from service.schemas import Pair, PairsPage, Run
from trainer.export.card import card
from trainer.export.folder import Folder, Record, picture_name
from trainer.export.formats import FORMATS, LeftOut
from trainer.export.formats.base import Row
from trainer.export.plan import ExportPlan
from trainer.export.shards import JsonLines, Shard, Table
from trainer.export.tally import Tally

log = structlog.get_logger()

T = TypeVar("T")

PAGE = 200
"""Pairs of a page."""
AT_ONCE = 16
"""Pairs whose pictures are fetched, and held, together."""
SHARD_BYTES = 512 << 20
"""At which a shard is closed."""
FOLLOW_S = 60.0
"""Age at which a shard is closed while more pairs are waited for."""
POLL_S = 1.0
"""Between two looks for new pairs, or at a service that is away."""
GONE = "an image is no longer stored"


class Exporter:
    """One export."""

    def __init__(self, client: AsyncClient, plan: ExportPlan) -> None:
        self.plan = plan
        self.run: Run | None = None
        """As it was looked at last; None: it is not there yet."""
        self.tally = Tally()
        """Also of what is read and not on disk yet."""
        self.resumed = 0
        """Pairs of the log that were done with before."""
        self._client = client
        self._format = FORMATS[plan.to]
        self._stop = asyncio.Event()
        self._pictures: dict[str, Any] = {}

    def stop(self) -> None:
        """Ends it in order: what was read is on disk."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    async def export(self) -> Record | None:
        """Until the log's present end, or until it is stopped. Returns what is on disk then; None:
        it was stopped before there was a run.

        Raises: ExportError, PrefstreamError, OSError.
        """
        plan = self.plan
        while self.run is None:
            try:
                self.run = await self._ask(lambda: self._client.run(plan.run))
            except RunNotFound:
                if not plan.follow:
                    raise
                await self._pause()
                if self.stopped:
                    return None
        fresh = Record(run=plan.run, epoch=self.run.epoch, format=plan.to, where=plan.where)
        with Folder(plan.out, fresh, self._format.suffix, self._open_shard) as folder:
            self.tally = folder.record.tally.model_copy(deep=True)
            self.resumed = self.tally.read
            await self._read(folder)
            return folder.record

    def _open_shard(self, file: Path) -> Shard:
        features = self._format.features
        return JsonLines(file) if features is None else Table(file, features())

    async def _read(self, folder: Folder) -> None:
        cursor = folder.record.cursor
        while True:
            async with aclosing(self._pages(cursor)) as pages:
                async for page in pages:
                    for start in range(0, len(page.pairs), AT_ONCE):
                        folder.append(await self._rows(folder, page.pairs[start : start + AT_ONCE]))
                    cursor = page.cursor
                    if folder.rows >= self.plan.shard_rows or folder.size >= SHARD_BYTES:
                        await self._commit(folder, cursor)
            if self.stopped or not self.plan.follow:
                break
            if folder.age_s >= FOLLOW_S:
                await self._commit(folder, cursor)
            await self._pause()
        await self._commit(folder, cursor)

    async def _pages(self, cursor: str | None) -> AsyncGenerator[PairsPage]:
        """From the cursor to the log's present end, or until it is stopped. The next one is fetched
        while one is worked on."""
        page = await self._page(cursor)
        while page.pairs:
            following = asyncio.create_task(self._page(page.cursor))
            try:
                yield page
                if self.stopped:
                    return
                page = await following
            finally:
                following.cancel()

    async def _page(self, cursor: str | None) -> PairsPage:
        return await self._ask(
            lambda: self._client.pairs_page(self.plan.run, after=cursor, limit=PAGE)
        )

    async def _rows(self, folder: Folder, pairs: Sequence[Pair]) -> list[Row]:
        """What is to be written of these pairs; the rest is counted."""
        wanted: list[Pair] = []
        for pair in pairs:
            self.tally.read += 1
            if failed := beyond(pair, self.plan.where):
                self.tally.filter(failed)
            else:
                wanted.append(pair)
        refs = list(dict.fromkeys(ref for pair in wanted for ref in pair.images))
        found = await asyncio.gather(*(self._picture(folder, ref) for ref in refs))
        self._pictures = dict(zip(refs, found, strict=True))
        rows: list[Row] = []
        for pair in wanted:
            try:
                made = self._rows_of(pair)
            except LeftOut as reason:
                self.tally.leave_out(str(reason))
            else:
                self.tally.write(pair, len(made))
                rows += made
        return rows

    def _rows_of(self, pair: Pair) -> list[Row]:
        """Raises: LeftOut."""
        images = [self._pictures[ref] for ref in pair.images]
        if None in images:
            raise LeftOut(GONE)
        return self._format.rows(pair, images)

    async def _picture(self, folder: Folder, ref: str) -> Any:
        """As rows have it; None: it is gone. Pairs about one picture tend to come together."""
        if ref in self._pictures:
            return self._pictures[ref]
        files = self._format.features is None
        if files and (name := folder.picture(ref)):
            return name
        try:
            content = await self._ask(lambda: self._client.image(ref))
        except ImageGone:
            return None
        if files:
            return folder.add_picture(ref, content)
        return {"bytes": content, "path": Path(picture_name(ref, content)).name}

    async def _commit(self, folder: Folder, cursor: str | None) -> None:
        """The shard at hand, the record, the card and what the trainer wants beside it."""
        folder.commit(cursor, self.tally)
        self.run = await self._ask(lambda: self._client.run(self.plan.run))
        name = f"prefstream-{self.plan.run}"
        shards = [(shard.name, shard.rows) for shard in folder.record.shards]
        for file, content in self._format.index(name, self.plan.out, shards).items():
            folder.write(file, json.dumps(content, indent=2) + "\n")
        folder.write("README.md", card(self.plan, name, self.run, folder.record))

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's answer; with `follow`, however long the service is away."""
        while True:
            try:
                return await call()
            except TemporaryError as error:
                if self.stopped or not self.plan.follow:
                    raise
                log.warning("the service is away; trying again", reason=str(error))
                await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), POLL_S)
