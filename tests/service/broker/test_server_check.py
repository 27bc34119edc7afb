"""What the server's ACL withholds is said at start; what it withholds later breaks nothing."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import pytest
import pytest_asyncio
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from service.broker import Broker, UnusableServer
from service.client import AsyncClient, ServerError
from service.schemas import LeaseRequest, RunSettings
from service.settings import Settings
from tests.servers import Server
from tests.service.commands.running import prefstream
from tests.service.samples import bdhs_result, claim_one, enqueue, enqueue_bdhs, sample_request
from tests.waiting import until

ALL = "~{prefstream}* ~prefstream:image:* &{prefstream}:bell:* +@all"


def user(server: Server, rules: str) -> str:
    """The address for a user with these rules of the ACL."""
    with Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "alice", "reset", "on", ">secret", *rules.split())
    return server.url.replace("//", "//alice:secret@")


def settings(url: str) -> Settings:
    return Settings.model_validate({"redis_url": url})


def granting(error: UnusableServer) -> str:
    """The line that grants what is missing."""
    return str(error).partition("with:  ")[2]


async def grant_what_is_asked_for(server: Server, broker: Broker) -> None:
    """Until nothing is."""
    with Redis(port=server.port) as admin:
        for _ in range(10):
            try:
                await broker.settings()
            except UnusableServer as error:
                admin.execute_command(*shlex.split(granting(error)))
            except RedisConnectionError:  # the server ends connections whose user has changed
                continue
            else:
                return
    raise AssertionError("the lines that it names do not grant what it needs")


@pytest_asyncio.fixture(autouse=True)
async def _no_users_are_left(any_server: Server) -> AsyncIterator[None]:
    yield
    with Redis(port=any_server.port) as admin:
        admin.execute_command("ACL", "DELUSER", "alice")


@pytest.mark.parametrize(
    ("rules", "lacking"),
    [
        ("~* +@all", "'&{prefstream}:bell:*' '+publish' '+subscribe'"),  # Redis 7's default
        ("~* &* +@all -@scripting", "'+eval' '+evalsha'"),
        ("~other:* &* +@all", "'~{prefstream}*'"),
        ("~{prefstream}* &* +@all", "'~prefstream:image:*' '+expire'"),  # images lie elsewhere
        ("~* &* +@all -@dangerous -@stream", "'+xack' '+xadd'"),
    ],
)
async def test_what_is_lacking_is_said_with_the_line_that_grants_it(
    any_server: Server, rules: str, lacking: str
) -> None:
    url = user(any_server, rules)
    async with Broker.connect(settings(url)) as broker:
        with pytest.raises(UnusableServer, match="let the user 'alice' do") as refused:
            await broker.settings()
    line = granting(refused.value)
    assert line.startswith(f"ACL SETUSER alice {lacking}")
    assert "secret" not in str(refused.value)
    async with AsyncClient(url, retry_for_s=60) as client:
        with pytest.raises(ServerError, match=re.escape(line)):
            await client.sample(sample_request())
    async with Broker.connect(settings(url)) as broker:
        await grant_what_is_asked_for(any_server, broker)


async def test_what_is_asked_for_is_enough(any_server: Server) -> None:
    """A user with nothing but what the message names does all that there is to do."""
    async with Broker.connect(settings(user(any_server, ""))) as broker:
        await grant_what_is_asked_for(any_server, broker)
        job = await enqueue_bdhs(broker, run="r")
        waiting = asyncio.create_task(broker.jobs.wait(job.id, 60))
        claim = await claim_one(broker)
        await broker.claims.finish(claim, bdhs_result(claim))
        ended = await waiting
        assert ended
        assert ended.status == "succeeded"
        batch = await broker.batches.lease("r", LeaseRequest(size=1, wait_s=60))
        assert batch
        await broker.batches.ack("r", batch.lease)
        await broker.runs.put("r", RunSettings(keep=0))
        await enqueue(broker, run="r")
        await broker.runs.delete("r", force=True)
        await broker.jobs.page("dead", before=None, limit=10)
        await broker.images.sweep()
        await broker.stats()
        await broker.weights.state()


def test_every_command_is_asked_for() -> None:
    """Those of the scripts, and those that are sent by themselves."""
    folder = resources.files("service.broker")
    lua = {path: path.read_text() for path in Path(str(folder / "lua")).rglob("*.lua")}
    check = next(text for path, text in lua.items() if path.parts[-2:] == ("server", "check.lua"))
    asked = set(re.findall(r"\{'([A-Z]+)'", check))
    used = {
        name
        for path, text in lua.items()
        if path.parts[-2:] != ("server", "check.lua")
        for name in re.findall(r"(?:call\(|\{)'([A-Z]+)'", text)
    }
    for path in Path(str(folder)).glob("*.py"):
        used |= set(re.findall(r'(?:command|_at_once|pipelined)\(\s*"([A-Z]+)"', path.read_text()))
    assert (used - {"INFO"}) | {"SUBSCRIBE", "XREAD"} == asked, "INFO is not needed"


async def test_a_job_is_cancelled_whoever_may_hear_of_it(any_server: Server) -> None:
    """The right to publish is lost while everything runs."""
    async with Broker.connect(settings(user(any_server, ALL))) as broker:
        job = await enqueue(broker)
        claim = await claim_one(broker)
        user(any_server, ALL + " -publish")

        async def cancelled() -> bool:
            try:
                found = await broker.jobs.cancel(job.id)
            except RedisConnectionError:  # the server ends connections whose user has changed
                return False
            return found is not None and found.status == "cancelled"

        await until(cancelled)
        assert await broker.claims.renew([claim]) == {job.id}


async def test_commands_say_it(any_server: Server) -> None:
    url = user(any_server, "~* +@all")
    ended = prefstream(any_server, "runs", "--url", url)
    assert ended.exit_code == 2
    assert "ACL SETUSER alice" in ended.output
