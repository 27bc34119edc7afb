"""A command of `prefstream`, run in this process."""

from typer.testing import CliRunner, Result

from service.commands.main import app
from tests.servers import Server


def prefstream(server: Server, *arguments: str) -> Result:
    return CliRunner(env={"PREFSTREAM_URL": server.url, "COLUMNS": "200"}).invoke(app, arguments)
