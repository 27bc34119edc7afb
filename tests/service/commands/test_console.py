"""What the commands share: the namespace that they work in."""

import os
import subprocess
import sys

import httpx
import pytest

from service.broker import Broker
from service.client import Client
from service.schemas import SampleRequest
from service.settings import Settings
from tests.servers import Server, free_port
from tests.service.commands.running import prefstream
from tests.service.samples import enqueue
from tests.waiting import until


async def test_commands_look_into_the_namespace_that_they_are_given(
    server: Server, broker: Broker
) -> None:
    settings = Settings(redis_url=server.url, namespace="other")  # pyright: ignore[reportArgumentType]
    async with Broker.connect(settings) as other:
        here, there = await enqueue(broker, run="here"), await enqueue(other, run="there")
    listed = prefstream(server, "jobs", "list", "--namespace", "other")
    assert listed.exit_code == 0, listed.output
    assert there.id in listed.output
    assert here.id not in listed.output
    assert here.id in prefstream(server, "jobs", "list").output
    assert "there" in prefstream(server, "runs", "--namespace", "other").output
    deleted = prefstream(server, "runs", "delete", "there", "--force", "--namespace", "other")
    assert deleted.output == "Run there deleted.\n"
    assert "No runs." in prefstream(server, "runs", "--namespace", "other").output
    assert "here" in prefstream(server, "runs").output


async def test_a_client_on_redis_takes_the_namespace_of_the_environment(
    server: Server, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFSTREAM_NAMESPACE", "other")
    with Client(server.url) as client:
        job = client.sample(SampleRequest(prompt="?"))
    monkeypatch.delenv("PREFSTREAM_NAMESPACE")
    assert await broker.jobs.get(job.id) is None
    with Client(server.url, namespace="other") as client:
        assert client.job(job.id).id == job.id


async def test_a_service_in_a_namespace_of_its_own(server: Server, broker: Broker) -> None:
    port = free_port()
    command = [sys.executable, "-m", "service", "serve", "--namespace", "other"]
    environment = os.environ | {
        "PREFSTREAM_REDIS_URL": server.url,
        "PREFSTREAM_NAMESPACE": "of-the-environment",
    }
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(  # noqa: ASYNC220
        [*command, "--port", str(port)], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            async with httpx.AsyncClient(base_url=url) as http:
                await until(lambda: _answers(http))
                job_id = (await http.post("/sample", json={"prompt": "?"})).json()["id"]
        finally:
            process.terminate()
    assert job_id in prefstream(server, "jobs", "list", "--namespace", "other").output
    assert await broker.jobs.get(job_id) is None


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health/ready")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("jobs", "list", "--namespace", "Not this"), "'Not this' does not match"),
        (
            ("runs", "--namespace", "other", "--url", "http://127.0.0.1:1"),
            "The service at http://127.0.0.1:1 has the namespace that it was started with",
        ),
        (("train", "--namespace", "other"), "--namespace other is for a Redis"),
        (("feed", "toy", "--namespace", "other", "--url", "http://x"), "is for a Redis"),
        (("evaluate", "toy", "--namespace", "other", "--url", "http://x"), "is for a Redis"),
    ],
)
def test_a_namespace_without_effect_is_refused(
    server: Server, arguments: tuple[str, ...], reason: str
) -> None:
    ended = prefstream(server, *arguments)
    assert ended.exit_code == 2
    assert reason in ended.output.replace("\n", " ")
