"""A part that falls is started again, until it has fallen too often in a row. Real processes."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from service.commands import local_part
from service.commands.console import REFUSED
from service.commands.local_part import MAX_FALLS, LocalPart, LocalStackError
from tests.processes import alive_after_a_while

Start = Callable[..., LocalPart]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_part, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def start(tmp_path: Path, said: list[str]) -> Iterator[Start]:
    started: list[LocalPart] = []

    def start(program: str, **options: bool) -> LocalPart:
        command, log = [sys.executable, "-c", program], tmp_path / "part.log"
        part = LocalPart("part", command, os.environ, log, said.append, **options)
        started.append(part)
        return part

    yield start
    for part in started:
        part.stop()


def keep_alive_until(part: LocalPart, condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        part.keep_alive()
        time.sleep(0.005)


def given_up(part: LocalPart) -> str:
    with pytest.raises(LocalStackError) as error:
        keep_alive_until(part, lambda: False)
    return str(error.value)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_what_was_killed_is_started_again_and_said_so(
    start: Start, said: list[str], tmp_path: Path
) -> None:
    part = start("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    log = tmp_path / "part.log"
    for fall in range(1, MAX_FALLS):
        keep_alive_until(part, lambda n=fall: len(lines(log)) == n)
        os.kill(int(lines(log)[-1]), signal.SIGKILL)
        keep_alive_until(part, lambda n=fall: len(said) == n)
    keep_alive_until(part, lambda: len(lines(log)) == MAX_FALLS)
    assert part.running
    assert len(set(lines(log))) == MAX_FALLS
    assert all("SIGKILL" in line and str(log) in line for line in said)
    assert ["\n" in line for line in said] == [False] * len(said)


def test_the_pauses_grow(start: Start, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_part, "FIRST_PAUSE_S", 1.0)
    clock = 0.0
    monkeypatch.setattr(local_part, "time", SimpleNamespace(monotonic=lambda: clock))
    part = start("raise SystemExit(3)")
    for pause in (1, 2, 4, 8):
        while len(said) < pause.bit_length():
            part.keep_alive()
        assert f"with status 3 ({pause.bit_length()} of 5 falls in a row)" in said[-1]
        assert f"in {pause} s" in said[-1]
        clock += pause - 0.1
        part.keep_alive()
        assert not part.running
        clock += 0.2
        part.keep_alive()
        assert part._process is not None


def test_one_that_cannot_start_is_given_up_with_its_last_words(
    start: Start, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "part.log").write_text("OldError: of yesterday\n")
    error = given_up(start("print('Loading.'); raise RuntimeError('no such model')"))
    assert f"fell {MAX_FALLS} times in a row" in error
    assert "with status 1" in error
    assert "RuntimeError: no such model" in error
    assert "of yesterday" not in error
    assert len(said) == MAX_FALLS - 1


def test_one_that_refuses_is_not_asked_again(start: Start, said: list[str]) -> None:
    part = start(f"print('Set PREFSTREAM_X.'); raise SystemExit({REFUSED})")
    assert "Set PREFSTREAM_X." in given_up(part)
    assert said == []


def test_falls_that_lie_far_apart_are_not_in_a_row(
    start: Start, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_part, "WELL_S", 0.0)
    part = start("raise SystemExit(1)")
    keep_alive_until(part, lambda: len(said) > 2 * MAX_FALLS)
    assert all(f"(1 of {MAX_FALLS} falls in a row)" in line for line in said)


def test_one_that_has_done_its_work_is_left_in_peace(start: Start, said: list[str]) -> None:
    part = start("pass", may_finish=True)
    keep_alive_until(part, lambda: not part.running)
    for _ in range(10):
        part.keep_alive()
    assert not part.running
    assert said == []


def test_status_0_is_a_fall_of_one_that_shall_live(start: Start, said: list[str]) -> None:
    part = start("pass")
    keep_alive_until(part, lambda: said)
    assert "with status 0" in said[0]


CHILD = "[sys.executable, '-c', 'import time; time.sleep(600)']"
WITH_CHILD = f"""
import subprocess, sys, time
print(subprocess.Popen({CHILD}).pid, flush=True)
time.sleep(600)
"""


def test_what_a_fallen_part_started_does_not_outlive_it(
    start: Start, said: list[str], tmp_path: Path
) -> None:
    part = start(WITH_CHILD)
    log = tmp_path / "part.log"
    keep_alive_until(part, lambda: lines(log))
    child = psutil.Process(int(lines(log)[0]))
    assert part._process is not None
    part._process.kill()
    keep_alive_until(part, lambda: said)
    assert alive_after_a_while([child]) == []


def test_one_that_waits_for_its_start_is_stopped_at_once(
    start: Start, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_part, "FIRST_PAUSE_S", 3600.0)
    part = start("raise SystemExit(1)")
    keep_alive_until(part, lambda: said)
    part.stop()
    part.keep_alive()
    assert not part.running
