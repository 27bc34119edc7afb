"""A run's pairs as other trainers take them (docs/exports.md)."""

import os
from pathlib import Path

from anyio.from_thread import start_blocking_portal

from service.client import AsyncClient
from service.schemas import PairFilters
from trainer.export.exporter import Exporter
from trainer.export.folder import Record
from trainer.export.formats import FORMATS
from trainer.export.plan import ExportError, ExportPlan
from trainer.export.tally import Tally

__all__ = ["FORMATS", "ExportError", "ExportPlan", "Exporter", "Record", "Tally", "export"]


def export(
    run: str,
    *,
    to: str,
    out: Path | str,
    url: str = "http://127.0.0.1:8000",
    api_key: str | None = None,
    namespace: str | None = None,
    where: PairFilters | None = None,
    follow: bool = False,
    license: str | None = None,
    origin: str | None = None,
) -> Tally:
    """Exports the pairs of a run, and returns what it counted. The same call goes on where it was.

    Args:
        run: its name.
        to: `trl`, `trl-kto`, `ms-swift`, `llamafactory`, `internvl` or `hf`.
        out: a folder, new or of the same export.
        url, api_key, namespace: as of `Client`.
        where: pairs beyond these are left out.
        follow: go on as pairs come, and never return.
        license, origin: for the data card.

    Raises: ExportError, PrefstreamError, OSError.
    """
    plan = ExportPlan(
        run=run,
        to=to,
        out=Path(out),
        where=where or PairFilters(),
        follow=follow,
        license=license,
        origin=origin,
    )

    async def exported() -> Tally:
        key = api_key or os.environ.get("PREFSTREAM_API_KEY")
        async with AsyncClient(url, api_key=key, namespace=namespace) as client:
            exporter = Exporter(client, plan)
            await exporter.export()
            return exporter.tally

    with start_blocking_portal() as portal:  # there may be an event loop: a notebook has one
        return portal.call(exported)
