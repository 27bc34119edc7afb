"""Engines in processes that need not import vLLM first: most of the seconds that one takes to
start.

vLLM starts an engine's process anew (spawn). Tests that start many fork each from a process that
has imported what it needs, and has done nothing else yet.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import vllm.v1.engine.utils  # noqa: F401  before it is patched

MODULES = [
    "vllm.v1.engine.core",
    "vllm.v1.engine.utils",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.executor.uniproc_executor",
    "worker.plugin.masking",
    "worker.plugin.chunked_prefill",
    "tests.worker.vision_tower",
]


@contextmanager
def preloaded() -> Iterator[None]:
    """Engines that start meanwhile are forked. vLLM does not see one of them die: not for tests in
    which engines do.

    The process to fork from starts with the first one, and keeps the environment of that moment.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    with patch("vllm.v1.engine.utils.get_mp_context", lambda: context):
        yield
