"""How a vLLM engine ended."""

import signal

from vllm.v1.engine.async_llm import AsyncLLM


def how_it_died(llm: AsyncLLM) -> str:
    """In words, by the status of its processes."""
    manager = llm.engine_core.resources.engine_manager
    codes = [process.exitcode for process in getattr(manager, "processes", ())]
    if ended := [_in_words(code) for code in codes if code]:
        return f"its process ended with {', '.join(ended)}"
    return "its process is gone" if llm.errored else "it was stuck"


def _in_words(exitcode: int) -> str:
    if exitcode > 0:
        return f"status {exitcode}"
    try:
        return signal.Signals(-exitcode).name
    except ValueError:  # real-time signals have no names
        return f"signal {-exitcode}"
