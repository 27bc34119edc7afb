"""`prefstream weights`, straight on a real server."""

from service.broker import Broker
from tests.servers import Server
from tests.service.commands.running import prefstream
from tests.service.samples import serve, weight_version


async def test_versions_are_shown_and_one_is_withdrawn(broker: Broker, server: Server) -> None:
    assert "None is announced" in prefstream(server, "weights", "list").output
    for version in (1, 2):
        await broker.weights.announce(weight_version(version))
    await serve(broker, 1, "w1")
    await broker.weights.refuse("w1", 2, "[red] is missing")
    stated = prefstream(server, "weights", "list")
    assert stated.exit_code == 0, stated.output
    assert "Newest: 2 (lora), at /weights/2" in stated.output
    assert "Worker w1 refused version 2: [red] is missing" in stated.output

    withdrawn = prefstream(server, "weights", "withdraw", "2")
    assert "Version 2 is withdrawn." in withdrawn.output
    assert "Newest: 1" in withdrawn.output
    assert "Withdrawn: 2" in withdrawn.output
    unknown = prefstream(server, "weights", "withdraw", "7")
    assert (unknown.exit_code, "no version 7" in unknown.output) == (2, True)
