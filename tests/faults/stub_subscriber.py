"""A trainer that needs no model, made to be killed.

    python -m tests.faults.stub_subscriber URL RUN FILE

Writes the ids of every pair it has acknowledged to FILE, one a line, after the acknowledgement.
"""

import asyncio
import random
import sys
from pathlib import Path

from service.client import AsyncClient, LeaseLost


async def main(url: str, run: str, path: str) -> None:
    with Path(path).open("a") as file:  # noqa: ASYNC230  one line now and then
        async with AsyncClient(url, retry_for_s=3600) as client:
            async for batch in client.batches(run, size=8, min_size=1, lease_s=2):
                await asyncio.sleep(random.uniform(0, 0.05))
                try:
                    if random.random() < 0.1:
                        await batch.nack()
                        continue
                    await batch.ack()
                except LeaseLost:
                    continue
                file.writelines(f"{pair.pair_id}\n" for pair in batch.pairs)
                file.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
