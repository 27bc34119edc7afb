"""A version's files, brought to a folder of this worker's own within a time limit."""

import asyncio
import shutil
import threading
from concurrent.futures import Future
from pathlib import Path

from service.schemas import WeightManifest, WeightVersion
from service.weight_store import BadWeights, fetch


async def fetch_within(limit_s: float, version: WeightVersion, folder: Path) -> None:
    """As `service.weight_store.fetch`; what takes longer is left to itself.

    Reading from a store that hangs (a network disk whose server is gone) cannot be interrupted. So
    it happens in a thread that nobody waits for: neither the worker's jobs nor its end.

    Raises: BadWeights.
    """
    fetched: Future[WeightManifest] = Future()

    def run() -> None:
        try:
            fetched.set_result(fetch(version, folder))
        except BaseException as error:
            if fetched.cancelled():  # too late, and nobody asks any more
                shutil.rmtree(folder, ignore_errors=True)
            else:
                fetched.set_exception(error)

    threading.Thread(target=run, name=f"fetch-{version.version}", daemon=True).start()
    try:
        async with asyncio.timeout(limit_s):
            await asyncio.wrap_future(fetched)
    except TimeoutError:
        raise BadWeights(
            f"{version.location} cannot be read: it took longer than {limit_s:g} s "
            "(PREFSTREAM_WORKER_FETCH_TIMEOUT_S)"
        ) from None
