"""`openai`: any endpoint that speaks OpenAI's chat completions and sees images.

For instance `vllm serve` of a larger model. The worker's settings set it up, never a request.
"""

import asyncio
import base64
import json
from typing import Any

import httpx

from service.annotator import AnnotatorUnavailable, CannotJudge, Case, Verdict
from service.loopback import direct_transport
from service.schemas import ImagePart
from worker.annotators import prompt
from worker.annotators.verdicts import parse_verdict
from worker.settings import WorkerSettings

MAX_ANSWER_BYTES = 1 << 20
MAX_RETRY_DELAY_S = 10.0
"""Longest pause between two attempts, whatever the endpoint asks for."""

RETRYABLE_STATUSES = (408, 409, 425, 429)
"""Statuses that may pass, as every 5xx may."""


class OpenAIAnnotator:
    """Asks the endpoint of the worker's settings; tries again what may pass."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._url = settings.annotator_url
        self._model = settings.annotator_model
        self._attempts = settings.annotator_attempts
        key = settings.annotator_api_key
        limits = httpx.Limits(max_connections=settings.annotator_connections)
        self._http = httpx.AsyncClient(
            base_url=self._url or "",
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            timeout=settings.annotator_timeout_s,
            limits=limits,
            transport=direct_transport(self._url, limits),
        )

    async def model(self) -> str:
        """The model's name: as set, or the first that the endpoint lists.

        Raises: CannotJudge, AnnotatorUnavailable.
        """
        if self._url is None:
            raise CannotJudge(
                "this worker has no endpoint for the annotator `openai`: set "
                "PREFSTREAM_WORKER_ANNOTATOR_URL, such as http://127.0.0.1:8001/v1"
            )
        if self._model is None:
            listed = await self._call("GET", "models", None)
            try:
                self._model = str(listed["data"][0]["id"])
            except (KeyError, IndexError, TypeError):
                raise CannotJudge(
                    f"{self._url}/models lists no model: set PREFSTREAM_WORKER_ANNOTATOR_MODEL"
                ) from None
        return self._model

    async def compare(self, case: Case) -> Verdict:
        """Raises: CannotJudge (the endpoint refuses the question), AnnotatorUnavailable."""
        images = iter(case.images)
        content = [
            {"type": "image_url", "image_url": {"url": _data_uri(next(images))}}
            if isinstance(part, ImagePart)
            else {"type": "text", "text": part.text}
            for part in prompt.comparison_message(case).parts
        ]
        body = {
            "model": await self.model(),
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": prompt.MAX_TOKENS,
        }
        answer = await self._call("POST", "chat/completions", body)
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise CannotJudge(f"{self._url} answered without a message") from None
        return parse_verdict(text or "")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """Tries again what may pass, a few times."""
        why = ""
        for attempt in range(self._attempts):
            pause = min(MAX_RETRY_DELAY_S, 0.5 * 2**attempt)
            try:
                async with self._http.stream(method, path, json=body) as response:
                    content = await self._read_bounded(response)
                if response.is_success:
                    return json.loads(content)
                why = f"status {response.status_code}: {_shortened(content)}"
                if response.status_code not in RETRYABLE_STATUSES and response.status_code < 500:
                    raise CannotJudge(f"{self._url}/{path} refuses it, {why}")
                asked = response.headers.get("Retry-After", "")
                if asked.isdigit():
                    pause = min(MAX_RETRY_DELAY_S, float(asked))
            except httpx.HTTPError as error:
                why = f"{type(error).__name__} {error}".strip()
            except ValueError as error:
                why = f"an answer that is not JSON: {error}"
            if attempt + 1 < self._attempts:
                await asyncio.sleep(pause)
        raise AnnotatorUnavailable(
            f"{self._url}/{path} failed {self._attempts} times, last with {why}"
        )

    async def _read_bounded(self, response: httpx.Response) -> bytes:
        content = b""
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                raise CannotJudge(f"{self._url} answers with more than {MAX_ANSWER_BYTES} bytes")
        return content

    async def close(self) -> None:
        await self._http.aclose()


def _data_uri(image: bytes) -> str:
    """With the type that the first bytes tell; the service stores PNG, JPEG and WEBP."""
    kind = "png" if image[:4] == b"\x89PNG" else "webp" if image[:4] == b"RIFF" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _shortened(content: bytes) -> str:
    return content[:500].decode(errors="replace")
