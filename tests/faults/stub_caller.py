"""A caller who never waits for the end, made to be killed.

    python -m tests.faults.stub_caller URL RUN

Asks for what takes time (batches, events of batches and jobs, a job's end), several at once, and
hangs up on each before or while it is answered.
"""

import asyncio
import random
import sys

import httpx

GROUP = "vanishing"
TOGETHER = 4
LEASE_S = 3.0


async def ask(http: httpx.AsyncClient, run: str, job: str) -> None:
    """One long question, read to its end if nobody hangs up."""
    lease = {"group": GROUP, "size": 8, "wait_s": 5, "lease_s": LEASE_S}
    stream = {"group": GROUP, "size": 4, "lease_s": LEASE_S}
    match random.randrange(5):
        case 0:
            await http.post(f"/runs/{run}/leases", json=lease)
        case 1:
            # More than there will be: nothing but the caller ends it.
            await http.post(f"/runs/{run}/leases", json=lease | {"size": 1024, "group": "patient"})
        case 2:
            async with http.stream("GET", f"/runs/{run}/batches", params=stream) as events:
                async for _ in events.aiter_bytes():
                    pass
        case 3:
            await http.get(f"/jobs/{job}", params={"wait_s": 5})
        case _:
            async with http.stream("GET", f"/jobs/{job}/events") as events:
                async for _ in events.aiter_bytes():
                    pass


async def vanish(http: httpx.AsyncClient, run: str) -> None:
    while True:
        try:
            async with asyncio.timeout(random.uniform(0, 0.4)):
                jobs = (await http.get("/jobs", params={"limit": 20})).json()["jobs"]
                await ask(http, run, random.choice(jobs)["id"])
        except (TimeoutError, httpx.HTTPError, LookupError, ValueError):
            await asyncio.sleep(0.05)


async def main(url: str, run: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http, asyncio.TaskGroup() as callers:
        for _ in range(TOGETHER):
            callers.create_task(vanish(http, run))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
