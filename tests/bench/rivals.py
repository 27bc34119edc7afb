"""The same token work as prefstream did, done in other ways.

The work is read from the traces: for every sentence of every iteration its prompt, the image tokens
it saw, and how many tokens were generated, those thrown away included. No rival splits, cuts,
compares or draws again: all of it is known to them, so all sentences of all pairs may go at once.
"""

import asyncio
import base64
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from service.schemas import BdhsRequest, BdhsResult
from worker.plugin.masking import FEATURE_CACHE_GIB, IMAGE_REQUESTS, ImageRequest


@dataclass(frozen=True)
class Work:
    """One sentence."""

    pair: int
    image: Image.Image
    ref: str
    prompt: list[int]
    """With one placeholder for the image; none where nothing of it is sent."""
    kept: list[int] | None
    """Image tokens that are seen; null: all."""
    tokens: int
    scored: bool = False
    """It is a whole answer, of which each token's log-probability is asked for."""


def work_of(
    requests: Sequence[BdhsRequest],
    results: Sequence[BdhsResult],
    image_token: int,
    token_before: int | None = None,
) -> list[Work]:
    """What was asked of the engine. The requests' trace must be `full`.

    Args:
        token_before: stands before each image, and an image that is hidden whole is sent; null: it
            is not.
    """
    work: list[Work] = []
    for pair, (request, result) in enumerate(zip(requests, results, strict=True)):
        encoded = base64.b64decode(request.images[0])
        image = Image.open(BytesIO(encoded)).convert("RGB")
        ref = f"sha256:{hashlib.sha256(encoded).hexdigest()}"
        assert result.trace is not None
        for iteration in result.trace.iterations:
            for sentence in iteration.sentences:
                ids = sentence.prompt_token_ids
                assert ids is not None
                assert sentence.completion_token_ids is not None
                first = len(ids)
                if iteration.images[0].kept:
                    first = ids.index(image_token)
                elif token_before is not None:
                    first = ids.index(token_before) + 1
                    ids = [*ids[:first], image_token, *ids[first:]]
                prompt = ids[: first + 1] + ids[first + max(1, len(iteration.images[0].kept)) :]
                work.append(
                    Work(
                        pair,
                        image,
                        ref,
                        prompt,
                        iteration.images[0].kept,
                        len(sentence.completion_token_ids),
                    )
                )
    return work


class RawVllm:
    """vLLM's own engine with the plugin: no service, no queue, no algorithm, no adapters."""

    def __init__(self, *, sends_hidden: bool, **arguments: Any):
        """`sends_hidden`: an image that is hidden whole is one of the request (M-RoPE)."""
        self.sends_hidden = sends_hidden
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments, additional_config={FEATURE_CACHE_GIB: 1.0})
        )

    async def run(self, work: Sequence[Work]) -> None:
        await asyncio.gather(*map(self._one, work))

    async def _one(self, item: Work) -> None:
        params = SamplingParams(
            temperature=1.0,
            min_tokens=item.tokens,
            max_tokens=item.tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            prompt_logprobs=0 if item.scored else None,
        )
        prompt: dict[str, Any] = {"prompt_token_ids": item.prompt}
        if item.kept or item.kept is None or self.sends_hidden:
            kept = None if item.kept is None else tuple(item.kept)
            request = ImageRequest(item.ref, kept)
            prompt["multi_modal_data"] = {"image": [item.image]}
            prompt["multi_modal_uuids"] = {"image": [item.ref]}
            prompt["mm_processor_kwargs"] = {IMAGE_REQUESTS: [request]}
        outputs = self._llm.generate(prompt, params, request_id=uuid.uuid4().hex)
        async with aclosing(outputs):
            async for _ in outputs:
                pass

    def stop(self) -> None:
        self._llm.shutdown()


class Transformers:
    """`generate`, in float32."""

    token_before: int | None = None
    """As `work_of` takes it."""

    def __init__(self, model: str):
        self.model: Any = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
        self.model.eval()
        self.processor = AutoProcessor.from_pretrained(model)
        self.image_token = self.model.config.image_token_id
        self._pad = self.model.config.text_config.pad_token_id

    @torch.inference_mode()
    def one_by_one(self, work: Sequence[Work]) -> None:
        """As published scripts do it: each sentence alone, image and all, under a mask."""
        for item in work:
            inputs = self._image_inputs(item.image)
            count = self._tokens(inputs)
            ids = self._with_image(item.prompt, count)
            mask = torch.ones(1, len(ids), dtype=torch.long)
            if item.kept:
                first = item.prompt.index(self.image_token)
                mask[0, first : first + count] = 0
                mask[0, [first + i for i in item.kept]] = 1
            self.model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=mask,
                **(inputs if item.kept else {}),
                **self._length(item.tokens),
            )

    @torch.inference_mode()
    def batched(self, work: Sequence[Work], size: int, *, drop: bool) -> None:
        """In batches of like length, the vision tower once an image.

        `drop`: hidden rows are left out of the sequence, and not just of the attention.
        """
        rows: dict[str, torch.Tensor] = {}
        by_image = defaultdict(list)
        for item in work:
            by_image[item.ref].append(item)
        for ref, items in by_image.items():
            if any(item.kept for item in items):
                rows[ref] = self._features(items[0].image)
        for batch in _batches(work, size):
            embedded = [self._embed(item, rows.get(item.ref), drop=drop) for item in batch]
            width = max(len(e) for e, _ in embedded)
            inputs = torch.zeros(len(batch), width, embedded[0][0].shape[1])
            mask = torch.zeros(len(batch), width, dtype=torch.long)
            for i, (vectors, seen) in enumerate(embedded):
                inputs[i, width - len(vectors) :] = vectors
                mask[i, width - len(vectors) :] = seen
            tokens = max(item.tokens for item in batch)
            self.model.generate(inputs_embeds=inputs, attention_mask=mask, **self._length(tokens))

    def _embed(
        self, item: Work, rows: torch.Tensor | None, *, drop: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A prompt's vectors, and which of them may be attended to."""
        vectors = self.model.get_input_embeddings()(torch.tensor(item.prompt))
        if not item.kept:
            return vectors, torch.ones(len(vectors), dtype=torch.long)
        assert rows is not None
        first = item.prompt.index(self.image_token)
        shown = torch.zeros(len(rows), dtype=torch.long)
        shown[item.kept] = 1
        if drop:
            rows, shown = rows[item.kept], shown[item.kept]
        ones = torch.ones(len(vectors), dtype=torch.long)
        return (
            torch.cat([vectors[:first], rows, vectors[first + 1 :]]),
            torch.cat([ones[:first], shown, ones[first + 1 :]]),
        )

    def _features(self, image: Image.Image) -> torch.Tensor:
        inputs = self._image_inputs(image)
        out = self.model.get_image_features(**inputs)
        rows = getattr(out, "pooler_output", out)
        return rows[0] if isinstance(rows, list | tuple) else rows.reshape(-1, rows.shape[-1])

    def _image_inputs(self, image: Image.Image) -> dict[str, torch.Tensor]:
        return dict(self.processor.image_processor(image, return_tensors="pt"))

    def _tokens(self, inputs: dict[str, torch.Tensor]) -> int:
        if "image_sizes" not in inputs:
            return self.model.config.image_seq_length
        height, width = inputs["image_sizes"][0].tolist()
        side = self.model.config.vision_config.image_size
        return self.processor._get_number_of_features(height, width, side, side) - 1

    def _with_image(self, prompt: list[int], count: int) -> list[int]:
        if self.image_token not in prompt:
            return prompt
        first = prompt.index(self.image_token)
        return prompt[:first] + [self.image_token] * count + prompt[first + 1 :]

    def _length(self, tokens: int) -> dict[str, Any]:
        return {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": True, "top_k": 0}


class MRoPETransformers(Transformers):
    """A model of M-RoPE, in float32, sentence by sentence. `generate` refuses a mask over image
    tokens there, so this goes forward with positions given, keys and values cached."""

    def __init__(self, model: str):
        super().__init__(model)
        self.token_before = self.model.config.vision_start_token_id

    @torch.inference_mode()
    def one_by_one(self, work: Sequence[Work]) -> None:
        for item in work:
            inputs = self._image_inputs(item.image)
            count = int(inputs["image_grid_thw"].prod()) // 4
            ids = torch.tensor([self._with_image(item.prompt, count)])
            of_image = ids == self.image_token
            mask = (~of_image).long()
            mask[0, of_image[0].nonzero()[item.kept, 0]] = 1
            positions, offset = self.model.model.get_rope_index(
                ids, mm_token_type_ids=of_image.long(), image_grid_thw=inputs["image_grid_thw"]
            )
            self._write(ids, mask, positions, int(offset), item.tokens, inputs)

    def _write(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        offset: int,
        tokens: int,
        pixels: dict[str, torch.Tensor],
    ) -> None:
        cache = None
        for length in range(ids.shape[1], ids.shape[1] + tokens):
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **pixels,
            )
            cache, pixels = out.past_key_values, {}
            ids = torch.multinomial(out.logits[:, -1].softmax(-1), 1)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            positions = torch.full((3, 1, 1), length + offset)


def _batches(work: Sequence[Work], size: int) -> list[list[Work]]:
    alike = sorted(work, key=lambda item: (item.tokens, len(item.kept), len(item.prompt)))
    return [alike[i : i + size] for i in range(0, len(alike), size)]
