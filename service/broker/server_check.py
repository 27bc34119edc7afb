"""Whether a namespace can live on this server: asked once a process, before its first call."""

from typing import TYPE_CHECKING

from service.broker.errors import CLUSTER, UnusableServer
from service.broker.scripts import script

if TYPE_CHECKING:
    from service.broker.connection import Connection


@script("server/check.lua")
def _check(image: str, channel: str) -> tuple[list[str], list[str]]: ...


async def check_server(connection: "Connection") -> None:
    """Raises: UnusableServer, if the server is a node of a Cluster, or if its ACL withholds
    something that is needed: with the line that grants it."""
    if await _mode(connection) == "cluster":
        raise UnusableServer(CLUSTER)
    namespace = connection.settings.namespace
    image, channel = connection.image_key("0"), connection.key("bell", "job")
    patterns = {
        connection.key("settings"): f"~{connection.tag}*",
        image: f"~{namespace}:image:*",
        channel: f"&{connection.key('bell')}:*",
    }
    try:
        lacking, none_on = await connection.run_at_once(_check, image, channel)
    except UnusableServer as error:  # without scripts there is no asking for the rest
        if str(error) == CLUSTER:
            raise
        if "access" in str(error):
            lacking, none_on = [], [connection.key("settings")]
        else:
            lacking, none_on = ["eval", "evalsha"], []
    rules = [patterns[on] for on in none_on] + [f"+{command}" for command in lacking]
    if rules:
        user = connection.redis.connection_pool.connection_kwargs.get("username") or "default"
        raise UnusableServer(
            f"The server's ACL does not let the user {user!r} do what the namespace {namespace!r} "
            "needs. Who administers it grants what is missing with:  "
            f"ACL SETUSER {user} {' '.join(map(repr, rules))}"
        )


async def _mode(connection: "Connection") -> str | None:
    """`standalone`, `sentinel` or `cluster`; None: the ACL withholds it."""
    try:
        server = await connection.command_at_once("INFO", "server")
    except UnusableServer:
        return None
    return server.get("redis_mode") or server.get("server_mode")  # Redis; Valkey
