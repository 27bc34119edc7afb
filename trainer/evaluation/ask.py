"""Many questions about images, put to the policy as it is served."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from service.client import AsyncClient, image_data
from service.schemas import Job, JobStatus, Priority, SampleRequest, SampleResult
from trainer.data.example import ImageSource, InvalidDataset
from trainer.data.images import load_image


class NoAnswer(Exception):
    """A question could not be asked, or the policy could not answer it."""


@dataclass(frozen=True, slots=True)
class Question:
    prompt: str
    image: ImageSource
    place: str
    """Where it is from, for people."""


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    version: int
    """Of the weights that wrote it."""
    cut: bool
    """It was cut off at the most new tokens."""


class Asker:
    """Asks greedily, several at once. What `saved` (a JSONL file) holds is not asked again.

    Raises: InvalidDataset, if `saved` is another file.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        max_tokens: int,
        in_flight: int = 16,
        saved: Path | None = None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._max_tokens = max_tokens
        self._in_flight = in_flight
        self._saved = saved
        self._on_answer = on_answer
        self._known = {} if saved is None else _read(saved)

    async def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers, in order. Raises: NoAnswer, PrefstreamError."""
        answers: dict[int, Answer] = {}
        asked: list[tuple[int, str]] = []
        """Of each request: the number of its question, and the key of its answer."""

        def requests() -> Iterator[SampleRequest]:  # so that not all images are in memory at once
            for number, question in enumerate(questions):
                key, request = self._request(question)
                if key in self._known:
                    answers[number] = self._known[key]
                    self._on_answer()
                else:
                    asked.append((number, key))
                    yield request

        async for index, job in self._client.map(requests(), in_flight=self._in_flight):
            number, key = asked[index]
            answers[number] = _answer(questions[number], job)
            self._save(key, answers[number])
            self._on_answer()
        return [answers[number] for number in range(len(questions))]

    def _request(self, question: Question) -> tuple[str, SampleRequest]:
        """With the key under which its answer is saved. Raises: NoAnswer."""
        try:
            image = load_image(question.image)
        except ValueError as error:
            raise NoAnswer(f"{question.place}: {error}") from error
        content = f"{question.prompt}\n{self._max_tokens}\n".encode() + image
        request = SampleRequest(
            prompt=question.prompt,
            images=[image_data(image)],
            temperature=0.0,
            max_tokens=self._max_tokens,
            priority=Priority.high,  # a feeder may have filled the queue
        )
        return hashlib.sha256(content).hexdigest(), request

    def _save(self, key: str, answer: Answer) -> None:
        if self._saved is not None:
            self._saved.parent.mkdir(parents=True, exist_ok=True)
            with self._saved.open("a") as file:
                file.write(json.dumps({"key": key, **asdict(answer)}) + "\n")


def _read(saved: Path) -> dict[str, Answer]:
    """The answers of a file, by key. A last line that was cut off is removed: it is asked again.

    Raises: InvalidDataset.
    """
    if not saved.exists():
        return {}
    known: dict[str, Answer] = {}
    content = saved.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = row.pop("key")
            known[key] = Answer(**row)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InvalidDataset(
                f"{saved}, line {number}, is no answer that was kept: {error}. Remove the line, or "
                "name another file with --answers."
            ) from error
    if len(whole) < len(content):
        with saved.open("r+b") as file:
            file.truncate(len(whole))
    return known


def _answer(question: Question, job: Job) -> Answer:
    """Raises: NoAnswer."""
    if job.status != JobStatus.succeeded or not isinstance(job.result, SampleResult):
        reason = f"{job.error.code}: {job.error.message}" if job.error else ""
        raise NoAnswer(f"{question.place}: job {job.id} {job.status}. {reason}")
    [response] = job.result.responses
    return Answer(response.text, response.oldest_version, response.finish_reason == "length")
