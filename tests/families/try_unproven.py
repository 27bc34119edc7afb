"""Prints which families that are not proven come through the check at start.

    python -m tests.families.try_unproven [ARCHITECTURE …]

Each is a tiny random checkpoint, in a real engine. docs/families.md has the table.
"""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.families.checkpoints.unproven import UNPROVEN
from tests.worker.preloaded import preloaded
from worker.engine import Engine
from worker.engine.masking_check import check_masking
from worker.settings import WorkerSettings

REASON = 160
"""Characters of a reason, at most."""


async def try_one(architecture: str, folder: Path) -> str:
    """A row of the table."""
    try:
        checkpoint = UNPROVEN[architecture](folder)
        engine = Engine(
            WorkerSettings(
                model=str(checkpoint),
                unproven=True,
                dtype="float32",
                enforce_eager=True,
                max_num_seqs=8,
                gpu_memory_utilization=0.1,
                max_lora_rank=16,
                max_model_len=2048,
            )
        )
        with preloaded():
            await engine.start()
    except Exception as error:  # each in its own way
        return f"| `{architecture}` | no | does not start: {reason(error)} |"
    checked = await check_masking(engine)
    engine.stop()
    failed = [f"{check.what}: {check.problem[:REASON]}" for check in checked if check.problem]
    return f"| `{architecture}` | {'no' if failed else 'yes'} | {'; '.join(failed)} |"


def reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:REASON]}"


def main(asked: Sequence[str]) -> None:
    print_line = Console(soft_wrap=True, highlight=False, markup=False).print
    print_line("| architecture | comes through | what fails |\n| --- | --- | --- |")
    for architecture in asked or UNPROVEN:
        with tempfile.TemporaryDirectory() as folder:
            print_line(asyncio.run(try_one(architecture, Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
