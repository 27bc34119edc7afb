"""`python -m service …` is `prefstream …`."""

from service.cli import app

app()
