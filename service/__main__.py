"""`python -m service …` is `prefstream …`."""

from service.commands.main import app

app()
