"""How far a feeder has come, in a small file, so that it goes on where it stopped."""

import json
import os
from pathlib import Path


class Cursor:
    """Which examples of the present epoch are done: all of the rows before `before`, and `ahead`.

    Examples are given out in order and done in any order; keys are `<row>.<part>`.
    """

    def __init__(self, file: Path, log: str) -> None:
        """`log`: the epoch of the run's log. A cursor of another log is of no use, and ignored."""
        self.epoch = 0
        """Times that the whole data set is done."""
        self._file = file
        self._log = log
        self._before = 0
        self._ahead: set[str] = set()
        self._given: dict[str, None] = {}
        """Given out and not done, in order."""
        self._last = 0
        try:
            saved = json.loads(file.read_text())
        except (OSError, ValueError):
            return
        if saved.get("log") == log:
            self.epoch, self._before = saved["epoch"], saved["before"]
            self._ahead = set(saved["ahead"])

    @property
    def fresh(self) -> bool:
        """Nothing is done yet."""
        return not (self.epoch or self._before or self._ahead)

    def has(self, key: str) -> bool:
        """Whether the example is done already."""
        return _row(key) < self._before or key in self._ahead

    def give(self, key: str) -> None:
        self._given[key] = None
        self._last = _row(key)

    def done(self, key: str) -> None:
        del self._given[key]
        self._ahead.add(key)
        self._before = max(self._before, _row(next(iter(self._given), f"{self._last}.0")))
        self._ahead = {done for done in self._ahead if _row(done) >= self._before}
        self._save()

    def next_epoch(self) -> None:
        self.epoch += 1
        self._before, self._last, self._ahead, self._given = 0, 0, set(), {}
        self._save()

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "log": self._log,
            "epoch": self.epoch,
            "before": self._before,
            "ahead": sorted(self._ahead),
        }
        written = self._file.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(state))
        written.replace(self._file)


def _row(key: str) -> int:
    return int(key.partition(".")[0])
