"""`prefstream runs`, straight on a real server."""

from service.broker import Broker
from tests.servers import Server
from tests.service.commands.running import prefstream
from tests.service.samples import bdhs_result, claim_one, enqueue_bdhs


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
