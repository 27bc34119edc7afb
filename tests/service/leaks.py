"""Finds what a broker left behind: keys nobody knows, and sets that disagree with the jobs."""

import re

from service.broker import Broker

KNOWN = re.compile(
    r"lane:(high|normal|low)(:again|:kind:\w+)?|kinds|stats|swept|cursors|open|retries|deadlines|ended|dead|runs"
    r"|images(_swept)?|settings|workers|worker:.+|key:[0-9a-f]{64}|job:[0-9a-f]{32}(:events)?"
    r"|run:[^:]+(:open|:running|:log|:filtered|:figures|:used_up|:groups|:group:[^:]+(:\w+)?)?|weights(:\w+)?"
)
FOR_A_TIME = re.compile(r"swept|images_swept|worker:.+|key:.+")


async def find_leaks(broker: Broker) -> list[str]:
    redis, connection = broker.connection.redis, broker.connection
    leaks: list[str] = []
    jobs: set[str] = set()
    runs = await broker.runs.names()
    async for key in redis.scan_iter(match=connection.key("*")):
        name = key.removeprefix(connection.key(""))
        if not KNOWN.fullmatch(name):
            leaks.append(f"unknown key {name}")
        if FOR_A_TIME.fullmatch(name) and await redis.ttl(key) == -1:
            leaks.append(f"{name} never expires")
        if name.startswith("job:") and not name.endswith(":events"):
            jobs.add(name.removeprefix("job:"))

        if name.startswith("run:") and name.split(":")[1] not in runs:
            leaks.append(f"{name} is of no run")

    open_jobs = set(await redis.zrange(connection.key("open"), 0, -1))
    dead = set(await redis.zrange(connection.key("dead"), 0, -1))
    by_run: set[str] = set()
    running_by_run: set[str] = set()
    for run in await broker.runs.names():
        by_run |= set(await redis.zrange(connection.key("run", run, "open"), 0, -1))
        running_by_run |= await redis.smembers(connection.key("run", run, "running"))
    retries = set(await redis.zrange(connection.key("retries"), 0, -1))
    deadlines = set(await redis.zrange(connection.key("deadlines"), 0, -1))
    leaks += [f"{job} is open and does not exist" for job in open_jobs - jobs]
    leaks += [f"{job} holds a place in a run, not open" for job in by_run - open_jobs]
    leaks += [f"{job} runs and does not exist" for job in running_by_run - jobs]
    leaks += [f"{job} waits for a retry, not open" for job in retries - open_jobs]
    leaks += [f"{job} has a deadline, not open" for job in deadlines - open_jobs]

    in_lanes: list[str] = []
    leased = 0
    async for key in redis.scan_iter(match=connection.key("lane", "*")):
        in_lanes += [fields["job"] for _, fields in await redis.xrange(key)]
        if await redis.exists(key) and await redis.xinfo_groups(key):
            leased += (await redis.xpending(key, "workers"))["pending"]
    running = 0
    for job_id in jobs:
        job = await broker.jobs.get(job_id)
        assert job is not None
        running += job.status == "running"
        if job.run and (job.status == "running") != (job_id in running_by_run):
            leaks.append(f"{job_id} is {job.status}, and its run does not know")
        if (job.status == "dead") != (job_id in dead):
            leaks.append(f"{job_id} is {job.status}, and the dead letters disagree")
        expires = await redis.ttl(connection.key("job", job_id)) != -1
        if job.ended:
            if job_id in open_jobs:
                leaks.append(f"{job_id} has ended and is open")
            if not expires and job_id not in dead:
                leaks.append(f"{job_id} has ended and never expires")
            if job_id in in_lanes:
                leaks.append(f"{job_id} has ended and is in a lane")
        else:
            if job_id not in open_jobs:
                leaks.append(f"{job_id} is {job.status} and not open")
            if in_lanes.count(job_id) != (job.status != "retrying"):
                leaks.append(f"{job_id} is {job.status}, {in_lanes.count(job_id)} times in a lane")
    leaks += [f"{job} is in a lane and does not exist" for job in set(in_lanes) - jobs]
    if leased != running:
        leaks.append(f"{leased} leases for {running} running jobs")
    for run in await broker.runs.names():
        leaks += [f"run {run}: {leak}" for leak in await _leaks_of_run(broker, run)]
    return leaks


async def _leaks_of_run(broker: Broker, run: str) -> list[str]:
    redis, connection = broker.connection.redis, broker.connection
    leaks: list[str] = []
    for group in await redis.smembers(connection.key("run", run, "groups")):

        def key(name: str, group: str = group) -> str:
            return connection.key("run", run, "group", group, name)

        held = await redis.hgetall(key("held"))
        leased = [position for positions in held.values() for position in positions.split()]
        again = await redis.zrange(key("again"), 0, -1)
        unacked = await redis.zrange(key("unacked"), 0, -1)
        tries = await redis.hkeys(key("tries"))
        if sorted(leased + again) != sorted(unacked):
            leaks.append(f"{group} holds {leased}, has {again} to return, {unacked} unacknowledged")
        if set(held) != set(await redis.zrange(key("leases"), 0, -1)):
            leaks.append(f"{group} has leases without pairs, or pairs without a lease")
        if not set(tries) <= set(unacked):
            leaks.append(f"{group} counts deliveries of {set(tries) - set(unacked)}")
    return leaks
