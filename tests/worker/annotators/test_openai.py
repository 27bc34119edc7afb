"""An annotator behind OpenAI's chat completions, on a scripted server: what fails on purpose.

`tests/worker/test_annotate.py` asks a real `vllm serve`.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from service.annotator import AnnotatorUnavailable, CannotJudge
from tests.proxy import proxy_in_environment
from tests.servers import free_port
from tests.service.samples import png
from tests.worker.annotators.test_prompt import case
from worker.annotators.openai import MAX_ANSWER_BYTES, OpenAIAnnotator
from worker.settings import WorkerSettings

Answer = tuple[int, dict[str, str], bytes]


class Scripted(ThreadingHTTPServer):
    """Answers in turn what it was told to; the last answer for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, dict[str, str], Any]] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast(Scripted, self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.seen.append((self.path, dict(self.headers), json.loads(body) if body else None))
        status, headers, content = server.answers[0]
        if len(server.answers) > 1:
            server.answers.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def said(text: str | None) -> Answer:
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def endpoint(server: Scripted | None, **changes: Any) -> OpenAIAnnotator:
    port = server.server_port if server else free_port()
    given = {
        "annotator_url": f"http://127.0.0.1:{port}/v1/",
        "annotator_model": "judge",
        "annotator_attempts": 2,
        **changes,
    }
    return OpenAIAnnotator(WorkerSettings.model_validate(given))


async def compare(endpoint: OpenAIAnnotator, **changes: Any) -> str:
    try:
        return (await endpoint.compare(case(**changes))).choice
    finally:
        await endpoint.close()


async def test_what_is_sent(server: Scripted) -> None:
    server.answers = [said("Response 2\nIt is so.")]
    with_key = endpoint(server, annotator_api_key="secret")
    assert await compare(with_key, images=[png()]) == "second"
    [(path, headers, body)] = server.seen
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"]) == ("judge", 0)
    [message] = body["messages"]
    image, text = message["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert "Response 2:\nA {dog}." in text["text"]


async def test_the_model_is_asked_for_when_it_is_not_set(server: Scripted) -> None:
    server.answers = [(200, {}, b'{"data": [{"id": "llava-34b"}]}'), said("Tie")]
    assert await compare(endpoint(server, annotator_model=None)) == "tie"
    assert [path for path, _, _ in server.seen] == ["/v1/models", "/v1/chat/completions"]
    assert server.seen[1][2]["model"] == "llava-34b"
    server.answers = [(200, {}, b'{"data": []}')]
    with pytest.raises(CannotJudge, match="PREFSTREAM_WORKER_ANNOTATOR_MODEL"):
        await compare(endpoint(server, annotator_model=None))


@pytest.mark.parametrize(
    "passing",
    [
        (503, {"Retry-After": "0"}, b"busy"),
        (429, {"Retry-After": "0"}, b"slow down"),
        (200, {}, b"<html>a proxy's page</html>"),
    ],
)
async def test_what_may_pass_is_tried_again(server: Scripted, passing: Answer) -> None:
    server.answers = [passing, said("Response 1")]
    assert await compare(endpoint(server)) == "first"
    assert len(server.seen) == 2
    server.answers = [passing]
    with pytest.raises(AnnotatorUnavailable, match="failed 2 times, last with"):
        await compare(endpoint(server))


async def test_an_endpoint_that_is_not_there_is_away() -> None:
    with pytest.raises(
        AnnotatorUnavailable, match=r"chat/completions failed 1 times.*ConnectError"
    ):
        await compare(endpoint(None, annotator_attempts=1))


async def test_a_proxy_in_the_environment_carries_what_leaves_the_machine(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [said("Response 1")]
    with proxy_in_environment(monkeypatch) as proxy:
        assert await compare(endpoint(server)) == "first"
        assert proxy.asked == []
        away = endpoint(None, annotator_url="http://judge.invalid/v1", annotator_attempts=1)
        with pytest.raises(AnnotatorUnavailable, match="status 502"):
            await compare(away)
        assert proxy.asked == ["POST http://judge.invalid/v1/chat/completions"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((400, {}, b'{"error": "no images here"}'), "status 400.*no images here"),
        ((401, {}, b"who are you?"), "status 401"),
        ((200, {}, b'{"choices": []}'), "without a message"),
        ((200, {}, b'"' + b"x" * MAX_ANSWER_BYTES + b'"'), "more than 1048576 bytes"),
    ],
)
async def test_what_will_not_pass_is_said_at_once(
    server: Scripted, answer: Answer, reason: str
) -> None:
    server.answers = [answer]
    with pytest.raises(CannotJudge, match=reason):
        await compare(endpoint(server))
    assert len(server.seen) == 1


async def test_an_answer_without_text_is_unreadable(server: Scripted) -> None:
    server.answers = [said(None)]
    assert await compare(endpoint(server)) == "unreadable"


async def test_without_an_address_it_says_what_to_set() -> None:
    with pytest.raises(CannotJudge, match="PREFSTREAM_WORKER_ANNOTATOR_URL"):
        await compare(endpoint(None, annotator_url=None))
