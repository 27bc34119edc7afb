"""Exports that are killed at one step after another, and resumed. Run as a program, which forks:

    python -m tests.trainer.export.kills redis://… FORMAT FOLDER

It says at how many places it was killed.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  # here, once for all processes
import pyarrow.parquet as parquet

import service.client.direct  # noqa: F401
from prefstream import export
from tests.trainer.export.made import RUN
from trainer.export import exporter, folder

PAGE = 4
"""Pairs of a page; a shard is closed after each."""


def kill_at(step: int) -> Callable[..., Any]:
    """Dies just before the so-manieth change of a file or folder."""
    left = step

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return dying

    return watched


def watch(watched: Callable[..., Any]) -> None:
    for name in ("replace", "write_bytes", "unlink", "mkdir"):
        setattr(Path, name, watched(getattr(Path, name)))
    for name in ("append", "commit"):
        setattr(folder.Folder, name, watched(getattr(folder.Folder, name)))
    folder.flush_to_disk = watched(folder.flush_to_disk)
    folder.shutil.rmtree = watched(folder.shutil.rmtree)


def run(url: str, to: str, out: Path, step: int | None) -> bool:
    """Exports in a process of its own. False: it was killed."""
    child = os.fork()
    if child == 0:
        exporter.PAGE = PAGE
        exporter.SHARD_BYTES = 1
        if step is not None:
            watch(kill_at(step))
        try:
            export(RUN, to=to, out=out, url=url)
        except BaseException as error:
            sys.stderr.write(repr(error))
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.waitstatus_to_exitcode(status) == 0
    return True


def pair_ids(out: Path) -> list[str]:
    """Of the rows in all files that a trainer would read; each must be whole."""
    # In a process of its own: what pyarrow's threads hold would stay held in those forked later.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(_pair_ids(out)).encode())
        except BaseException as error:
            sys.stderr.write(repr(error))
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        ids = said.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return json.loads(ids)


def _pair_ids(out: Path) -> list[str]:
    found: list[str] = []
    for file in sorted((out / "data").glob("*")):
        if file.suffix == ".parquet":
            found += parquet.read_table(file, columns=["pair_id"]).column(0).to_pylist()
        else:
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            assert all((out / name).stat().st_size for row in rows for name in row["images"])
            found += [row["pair_id"] for row in rows]
    return found


def main(url: str, to: str, folder: str) -> None:
    whole = Path(folder) / "whole"
    assert run(url, to, whole, None)
    wanted = pair_ids(whole)
    assert len(wanted) == len(set(wanted)) > 2 * PAGE
    step, killed = 0, True
    while killed:
        out = Path(folder) / str(step)
        killed = not run(url, to, out, step)
        left = pair_ids(out)
        assert left == wanted[: len(left)], (step, left)
        if killed:
            if step % 3 == 0:
                run(url, to, out, step % 7)  # dies where it tidies up after the first
            assert run(url, to, out, None), step
        assert pair_ids(out) == wanted, step
        leavings = [file.name for file in out.iterdir() if file.name.startswith(".")]
        assert leavings == [], step
        step += 1
    sys.stdout.write(f"{step - 1}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
