"""`prefstream jobs`, straight on a real server."""

import json

import pytest

from service.broker import Broker
from service.schemas import JobError
from tests.servers import Server
from tests.service.commands.running import prefstream
from tests.service.samples import claim_one, enqueue_bdhs


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
