"""`prefstream jobs` and `prefstream runs`, straight on a real server."""

import json

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from service.broker import Broker
from service.commands.main import app
from service.schemas import JobError
from service.settings import Settings
from tests.servers import Server
from tests.service.samples import bdhs_result, claim_one, enqueue_bdhs


@pytest_asyncio.fixture
async def broker(server: Server):
    async with Broker.connect(Settings(redis_url=server.url)) as broker:  # pyright: ignore[reportArgumentType]
        yield broker


def prefstream(server: Server, *arguments: str) -> Result:
    return CliRunner(env={"PREFSTREAM_URL": server.url, "COLUMNS": "200"}).invoke(app, arguments)


async def test_dead_letters_are_listed_revived_and_purged(broker: Broker, server: Server) -> None:
    job = await enqueue_bdhs(broker, run="r")
    claim = await claim_one(broker)
    await broker.claims.retry(claim, JobError(code="oops", message="It broke."), give_up=True)

    listed = prefstream(server, "jobs", "list", "dead")
    assert listed.exit_code == 0, listed.output
    assert job.id in listed.output
    assert "oops: It broke." in listed.output
    shown = json.loads(prefstream(server, "jobs", "show", job.id).output)
    assert shown["history"][0]["error"]["code"] == "oops"

    assert json.loads(prefstream(server, "jobs", "retry", job.id).output)["status"] == "queued"
    assert "No dead jobs." in prefstream(server, "jobs", "list", "dead").output
    cancelled = prefstream(server, "jobs", "cancel", job.id)
    assert json.loads(cancelled.output)["status"] == "cancelled"
    assert "0 dead letters" in prefstream(server, "jobs", "purge").output


async def test_runs_state_their_figures(broker: Broker, server: Server) -> None:
    assert "No runs." in prefstream(server, "runs").output
    await enqueue_bdhs(broker, run="r")
    claim = await claim_one(broker)
    await broker.claims.finish(claim, bdhs_result(claim))
    stated = prefstream(server, "runs")
    assert stated.exit_code == 0, stated.output
    assert " r " in stated.output

    await enqueue_bdhs(broker, run="r")
    refused = prefstream(server, "runs", "delete", "r")
    assert refused.exit_code == 2
    assert "1 open jobs" in refused.output
    assert "deleted" in prefstream(server, "runs", "delete", "r", "--force").output
    assert "No runs." in prefstream(server, "runs").output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("jobs", "show", "0" * 32), "404"),
        (("jobs", "list", "all"), "none of: open, ended, dead"),
        (("runs", "--url", "ftp://x"), "starts with none of"),
    ],
)
def test_what_is_wrong_is_said(server: Server, arguments: tuple[str, ...], reason: str) -> None:
    ended = prefstream(server, *arguments)
    assert ended.exit_code == 2
    assert reason in ended.output
