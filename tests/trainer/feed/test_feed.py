"""A feeder before a real service, while workers and trainers come, go and fall behind."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from service.broker import UNAVAILABLE, Broker
from service.client import AsyncClient
from service.schemas import JobError, LeaseRequest, Message, Pair, RunSettings, user_turn
from service.settings import Settings
from tests.servers import Server, free_port
from tests.service.http import served
from tests.service.samples import bdhs_result
from tests.trainer.data import samples
from tests.waiting import until
from trainer.data import SECOND_REJECTED, Example, InvalidDataset, InvalidRow
from trainer.feed import command
from trainer.feed.cursor import Cursor
from trainer.feed.feeder import Feeder, FeedPlan

RUN = "r"
COMMAND = [
    sys.executable,
    "-c",
    "import typer; from trainer.feed.command import feed; typer.run(feed)",
]


def settings(server: Server) -> Settings:
    return Settings(redis_url=server.url)  # pyright: ignore[reportArgumentType]


@asynccontextmanager
async def working(server: Server) -> AsyncIterator[Broker]:
    """A worker whose jobs are done as soon as it has them."""
    async with Broker.connect(settings(server)) as broker:

        async def work() -> None:
            while True:
                try:
                    for claim in await broker.claims.claim("w", 4, block_s=5):
                        await broker.claims.finish(claim, bdhs_result(claim))
                except UNAVAILABLE:
                    await asyncio.sleep(0.05)

        task = asyncio.create_task(work())
        try:
            yield broker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """A preference data set of 30 rows about one image."""
    rows = [
        {"question": f"What, {i}?", "chosen": f"This, {i}.", "rejected": f"That, {i}."}
        for i in range(30)
    ]
    return samples.write(tmp_path, "pairs.jsonl", [r | {"image": samples.JPEG} for r in rows])


def plan(dataset: object, **changes: Any) -> FeedPlan:
    return FeedPlan(**{"dataset": str(dataset), "run": RUN, "method": "bdhs", **changes})


async def feed_all(url: str, what: FeedPlan, marks: Path) -> Feeder:
    async with AsyncClient(url) as client:
        feeder = Feeder(client, what, marks)
        await asyncio.wait_for(feeder.feed(), 60)
        return feeder


async def log_of(broker: Broker) -> list[Pair]:
    pairs, cursor = [], None
    while (page := await broker.runs.pairs(RUN, cursor, 100)).pairs:
        pairs += page.pairs
        cursor = page.cursor
    return pairs


async def test_references_become_jobs_and_pairs(server: Server, tmp_path: Path) -> None:
    with served(settings(server)) as url:
        async with working(server) as broker:
            feeder = await feed_all(url, plan("toy", limit=20, fields={"rho": 0.9}), tmp_path)
            pairs = await log_of(broker)
    assert (feeder.stats.accepted, feeder.stats.pairs) == (20, 20)
    assert len({pair.images[0] for pair in pairs}) == 20
    assert {pair.method for pair in pairs} == {"bdhs-attention"}


async def test_offline_pairs_go_in_in_order(
    server: Server, pairs_file: Path, tmp_path: Path
) -> None:
    what = plan(pairs_file, method="offline", in_flight=1, epochs=2)
    feeder = await feed_all(server.url, what, tmp_path)
    async with Broker.connect(settings(server)) as broker:
        pairs = await log_of(broker)
    assert feeder.stats.pairs == 60
    assert [p.chosen[0].parts[0].text for p in pairs] == [f"This, {i}." for i in range(30)] * 2  # pyright: ignore
    assert {p.method for p in pairs} == {"offline"}
    assert len({p.images[0] for p in pairs}) == 1
    assert pairs[31].metadata == {"dataset": str(pairs_file), "row": "2.0", "epoch": 1}
    again = await feed_all(server.url, what, tmp_path)
    assert (again.finished_before, again.stats.accepted) == (True, 0)


async def test_a_full_window_holds_the_feeder_and_a_trainer_releases_it(
    server: Server, pairs_file: Path, tmp_path: Path
) -> None:
    what = plan(pairs_file, method="offline", window=5)
    with served(settings(server)) as url:
        async with Broker.connect(settings(server)) as broker:
            feeding = asyncio.create_task(feed_all(url, what, tmp_path))
            taken = 0
            while taken < 30:  # the trainer is slow: all it leaves is a full window
                room = min(5, 30 - taken)
                await until(lambda r=room: _waiting(broker, r))
                batch = await broker.batches.lease(RUN, LeaseRequest(size=room))
                assert batch
                taken += len(batch.pairs)
                run = await broker.runs.get(RUN)
                assert run
                assert run.pairs - taken <= 5
            await feeding
            assert len({p.pair_id for p in await log_of(broker)}) == 30


async def _waiting(broker: Broker, count: int) -> bool:
    """Whether so many pairs wait for the trainer: never more than the window."""
    run = await broker.runs.get(RUN)
    if run is None:
        return False
    waiting = next((g.waiting for g in run.groups if g.name == "trainer"), run.pairs)
    assert waiting <= run.settings.window
    return waiting == count


async def test_a_held_feeder_asks_no_faster_than_it_is_told(
    server: Server, pairs_file: Path, tmp_path: Path
) -> None:
    """As many requests as the service's Retry-After allows, however long the trainer is away."""
    refused: list[float] = []

    class Counting(AsyncClient):
        async def append(self, run: str, pair: Any) -> Any:
            refused.append(asyncio.get_running_loop().time())
            return await super().append(run, pair)

    with served(settings(server)) as url:
        async with Counting(url, retry_for_s=0) as client:
            await client.put_run(RUN, RunSettings(window=1))
            feeder = Feeder(client, plan(pairs_file, method="offline", in_flight=2), tmp_path)
            feeding = asyncio.create_task(feeder.feed())
            await until(lambda: _true(len(refused) >= 7))
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
    # One got in; each of the two that wait asks once a second.
    assert refused[6] - refused[2] > 1.5
    assert feeder.stats.accepted == 1


async def _true(value: bool) -> bool:
    return value


async def test_a_killed_feeder_goes_on_where_it_was(
    server: Server, pairs_file: Path, tmp_path: Path
) -> None:
    arguments = [
        *(str(pairs_file), "--run", RUN, "--method", "offline", "--url", server.url),
        *("--window", "12", "--marks", str(tmp_path / "marks")),
    ]
    async with Broker.connect(settings(server)) as broker:
        for stop in (signal.SIGKILL, signal.SIGINT):
            with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE) as process:  # noqa: ASYNC220
                await until(lambda: _waiting(broker, 12))
                process.send_signal(stop)
                output = process.communicate()[1].decode()
            assert process.returncode == (-signal.SIGKILL if stop == signal.SIGKILL else 130)
            assert await broker.batches.lease(RUN, LeaseRequest(size=12))
        assert "The same command goes on from here" in output
        done = await asyncio.to_thread(
            subprocess.run, [*COMMAND, *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        # What was accepted just when it was killed is sent again, and known.
        counts = [int(n) for n in re.findall(r"(\d+) (?:examples|had been) accepted", done.stderr)]
        assert sum(counts) == 30
        assert 6 <= counts[0] < 30
        pairs = await log_of(broker)
    assert Counter(p.metadata["row"] for p in pairs) == {f"{i}.0": 1 for i in range(1, 31)}


async def test_without_its_mark_it_repeats_nothing(
    server: Server, pairs_file: Path, tmp_path: Path
) -> None:
    async with working(server) as broker:
        for method in ("offline", "bdhs"):
            for marks in ("first", "second"):
                await feed_all(server.url, plan(pairs_file, method=method), tmp_path / marks)
        pairs = await log_of(broker)
        assert Counter(p.method for p in pairs) == {"offline": 30, "bdhs-attention": 30}
        await feed_all(server.url, plan(pairs_file, seed=1), tmp_path / "second")
        assert len(await log_of(broker)) == 90


async def test_another_system_prompt_feeds_the_same_rows_anew(
    server: Server, pairs_file: Path, tmp_path: Path
) -> None:
    async with working(server) as broker:
        for method in ("offline", "bdhs"):
            for system in (None, "Be brief.", "Be brief.", "Be kind."):
                what = plan(pairs_file, method=method, system=system, limit=2)
                await feed_all(server.url, what, tmp_path)
        pairs = await log_of(broker)
    first = [(p.method, p.prompt[0].text if len(p.prompt) > 1 else None) for p in pairs]
    assert Counter(first) == {
        (method, system): 2
        for method in ("offline", "bdhs-attention")
        for system in (None, "Be brief.", "Be kind.")
    }
    assert {tuple(m.role for m in p.prompt) for p in pairs} == {("user",), ("system", "user")}


def test_a_conversation_keeps_its_own_system_prompt() -> None:
    own = Message(role="system", content="Answer in rhyme.")
    example = Example([own, user_turn("?", 0)], (), chosen="Yes.", key="1.0")
    what = plan("d", method="online", system="Be brief.")
    assert what.request(example, []).messages == example.messages


async def test_a_run_that_is_lost_is_fed_anew(
    server: Server, pairs_file: Path, tmp_path: Path
) -> None:
    what = plan(pairs_file, method="offline")
    await feed_all(server.url, what, tmp_path)
    server.flush()
    feeder = await feed_all(server.url, what, tmp_path)
    assert (feeder.resumed, feeder.stats.accepted) == (False, 30)


@pytest.mark.parametrize("method", ["offline", "bdhs"])
async def test_a_run_that_was_deleted_is_fed_anew(
    server: Server, pairs_file: Path, tmp_path: Path, method: str
) -> None:
    async with working(server) as broker:
        for _ in range(2):
            feeder = await feed_all(server.url, plan(pairs_file, method=method), tmp_path)
            assert (feeder.stats.accepted, len(await log_of(broker))) == (30, 30)
            await broker.runs.delete(RUN)


async def test_restarts_of_service_and_server_are_survived(
    own_server: Server, pairs_file: Path, tmp_path: Path
) -> None:
    port = free_port()
    service = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    environment = {**os.environ, "PREFSTREAM_REDIS_URL": own_server.url}
    url = f"http://127.0.0.1:{port}"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(service, env=environment, stderr=subprocess.DEVNULL)

    process = start()
    try:
        feeding = asyncio.create_task(
            feed_all(url, plan(pairs_file, window=8, in_flight=3), tmp_path)
        )
        async with working(own_server) as broker:
            await until(_reaches(broker, 8))
            process.kill()
            process.wait()
            own_server.kill()
            own_server.start()
            assert await broker.batches.lease(RUN, LeaseRequest(size=8))
            process = start()
            await until(_reaches(broker, 16))
            await broker.runs.put(RUN, RunSettings(window=256))
            feeder = await feeding
            pairs = await log_of(broker)
    finally:
        process.kill()
        process.wait()
    assert (len(pairs), len({p.pair_id for p in pairs})) == (30, 30)
    assert feeder.stats.accepted == 30


def _reaches(broker: Broker, pairs: int) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        run = await broker.runs.get(RUN)
        return run is not None and run.pairs >= pairs

    return reached


async def test_jobs_that_fail_are_counted_with_their_reason(server: Server, tmp_path: Path) -> None:
    async with Broker.connect(settings(server)) as broker:
        feeding = asyncio.create_task(feed_all(server.url, plan("toy", limit=3), tmp_path))
        done = 0
        while done < 3:
            for claim in await broker.claims.claim("w", 3, block_s=5):
                done += 1
                if done == 1:
                    await broker.claims.finish(claim, bdhs_result(claim))
                else:
                    error = JobError(code="prompt_too_long", message=f"too long, {done}")
                    await broker.claims.fail(claim, error)
        stats = (await feeding).stats
    assert (stats.pairs, stats.failed) == (1, {"prompt_too_long": 2})
    assert stats.reasons["prompt_too_long"].endswith("too long, 2")


async def test_bad_rows_stop_it_or_are_counted(server: Server, tmp_path: Path) -> None:
    good = samples.RLAIF_V[0]
    rows = [
        good,
        good | {"image": "gone.jpg"},
        good | {"rejected": "Red."},
        good | {"chosen": "Red. " * 50_000},
        {"question": "No image?", "image": None, "chosen": "None.", "rejected": "One."},
    ]
    file = samples.write(tmp_path, "rows.jsonl", rows)
    offline = plan(file, method="offline")
    with pytest.raises(InvalidRow, match=r"rows\.jsonl, row 2: there is no image"):
        await feed_all(server.url, offline, tmp_path)
    feeder = await feed_all(server.url, plan(file, method="offline", skip_bad=True), tmp_path)
    assert (feeder.stats.bad, feeder.stats.failed) == (
        {"image not found": 1, "refused": 1},
        {"same": 1},
    )
    async with Broker.connect(settings(server)) as broker:
        assert {p.metadata["row"] for p in await log_of(broker)} == {"1.0", "5.0"}
    async with working(server):
        bdhs = await feed_all(server.url, plan(file, skip_bad=True), tmp_path)
    assert (bdhs.stats.pairs, bdhs.stats.bad.total()) == (2, 3)
    with pytest.raises(InvalidDataset, match="has references, and no rejected sides"):
        await feed_all(server.url, plan("toy", method="offline"), tmp_path)


def test_what_is_asked_for_is_checked_first() -> None:
    app = typer.Typer()
    app.command()(command.feed)
    for arguments, reason in (
        (["toy", "--method", "magic"], "--method magic is none of bdhs, online, offline"),
        (["toy", "--format", "x"], "--format x is none of povid"),
        (["toy", "--rho", "2"], "rho: Input should be less than or equal to 1"),
        (["toy", "--set", "guidanse=none"], "guidanse: Extra inputs are not permitted"),
        (["toy", "--method", "online"], "needs an --annotator"),
        (["toy", "--method", "online", "--annotator", "self", "--n", "1"], "ranks 2 to 8"),
        (["toy", "--set", "guidance"], "give FIELD=VALUE"),
        (["toy", "--system", " "], "--system is empty"),
        (["toy", "--url", "ftp://x"], "starts with none of"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert reason in result.output


def test_a_mark_knows_what_is_done(tmp_path: Path) -> None:
    file = tmp_path / "mark.json"
    mark = Cursor(file, "log")
    for key in ("1.0", "1.1", "2.0", "2.1", "3.0"):
        mark.give(key)
    for key in ("1.1", "3.0", "1.0", "2.1"):
        mark.done(key)
    assert json.loads(file.read_text())["before"] == 2
    again = Cursor(file, "log")
    assert [again.has(k) for k in ("1.0", "1.1", "2.0", "2.1", "3.0", "3.1")] == [
        *(True, True, False, True, True, False)
    ]
    assert Cursor(file, "another log").fresh
    again.next_epoch()
    third = Cursor(file, "log")
    assert (third.epoch, third.has("1.0"), third.fresh) == (1, False, False)


def test_a_bdhs_job_carries_what_the_data_set_rejected() -> None:
    pair = Example([user_turn("?", 1)], (), chosen="Yes.", rejected="No.", key="1.0")
    refs = ["sha256:" + "0" * 64]
    assert plan("d").request(pair, refs).metadata[SECOND_REJECTED] == "No."
    reference = Example([user_turn("?", 1)], (), chosen="Yes.", key="1.0")
    assert SECOND_REJECTED not in plan("d").request(reference, refs).metadata
