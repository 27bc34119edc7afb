"""Many questions about images, put to the policy as it is served."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from service.client import AsyncClient, image_data
from service.schemas import JobStatus, Priority, SampleRequest, SampleResult
from trainer.data.example import ImageSource
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
    """Asks greedily, several at once. What `saved` (a JSONL file) holds is not asked again."""

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
        self._slots = asyncio.Semaphore(in_flight)
        self._saved = saved
        self._on_answer = on_answer
        self._known: dict[str, Answer] = {}
        if saved is not None and saved.exists():
            for line in saved.read_text().splitlines():
                row = json.loads(line)
                key = row.pop("key")
                self._known[key] = Answer(**row)

    async def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers, in order. Raises: NoAnswer, PrefstreamError."""
        tasks: list[asyncio.Task[Answer]] = []
        try:
            async with asyncio.TaskGroup() as group:
                async for question in self._as_slots_allow(questions):
                    tasks.append(group.create_task(self._ask(question)))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _as_slots_allow(self, questions: Sequence[Question]) -> AsyncIterator[Question]:
        """So that not all images are in memory at once."""
        for question in questions:
            await self._slots.acquire()
            yield question

    async def _ask(self, question: Question) -> Answer:
        try:
            try:
                image = await asyncio.to_thread(load_image, question.image)
            except ValueError as error:
                raise NoAnswer(f"{question.place}: {error}") from error
            content = f"{question.prompt}\n{self._max_tokens}\n".encode() + image
            key = hashlib.sha256(content).hexdigest()
            answer = self._known.get(key)
            if answer is None:
                answer = await self._sample(question, image)
                self._save(key, answer)
            self._on_answer()
            return answer
        finally:
            self._slots.release()

    async def _sample(self, question: Question, image: bytes) -> Answer:
        request = SampleRequest(
            prompt=question.prompt,
            images=[image_data(image)],
            temperature=0.0,
            max_tokens=self._max_tokens,
            priority=Priority.high,  # a feeder may have filled the queue
        )
        job = await self._client.wait((await self._client.sample(request)).id)
        if job.status != JobStatus.succeeded or not isinstance(job.result, SampleResult):
            reason = f"{job.error.code}: {job.error.message}" if job.error else ""
            raise NoAnswer(f"{question.place}: job {job.id} {job.status}. {reason}")
        [response] = job.result.responses
        return Answer(response.text, response.oldest_version, response.finish_reason == "length")

    def _save(self, key: str, answer: Answer) -> None:
        if self._saved is not None:
            self._saved.parent.mkdir(parents=True, exist_ok=True)
            with self._saved.open("a") as file:
                file.write(json.dumps({"key": key, **asdict(answer)}) + "\n")
