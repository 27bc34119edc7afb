"""`pairs.jsonl`: which pairs each optimizer step of the line of checkpoints used.

A record for people and programs; what a resumed trainer goes by is in the checkpoints.
"""

import json
from pathlib import Path

from trainer.files import write_atomically

NAME = "pairs.jsonl"


class Journal:
    """One line a step: `{"step": 3, "pairs": ["…", …]}`."""

    def __init__(self, output: Path, step: int) -> None:
        """Goes on after `step`; what is beyond was computed after the checkpoint and is undone."""
        self._path = output / NAME
        lines = [line for line in read(output) if line[0] <= step]
        self.pairs = sum(len(pairs) for _, pairs in lines)
        """Pairs used so far."""
        write_atomically(self._path, "".join(_line(*line) for line in lines).encode())

    def add(self, step: int, pairs: list[str]) -> None:
        self.pairs += len(pairs)
        with self._path.open("a") as file:
            file.write(_line(step, pairs))


def read(output: Path) -> list[tuple[int, list[str]]]:
    """Steps and the ids of their pairs, oldest first. A last line that was cut off is left out."""
    path = output / NAME
    if not path.is_file():
        return []
    lines = path.read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(row["step"], row["pairs"]) for row in rows]


def _line(step: int, pairs: list[str]) -> str:
    return json.dumps({"step": step, "pairs": pairs}) + "\n"
