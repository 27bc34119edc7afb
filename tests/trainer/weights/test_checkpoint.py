from pathlib import Path

from trainer.stream import journal
from trainer.weights import checkpoint
from trainer.weights.checkpoint import RECORD, CheckpointRecord


def record(step: int) -> CheckpointRecord:
    return CheckpointRecord(
        step=step,
        run="r",
        group="g",
        pairs=step,
        unacknowledged=["a"],
        leases={"1": ["a"]},
        version=0,
    )


def write(output: Path, step: int, *, complete: bool) -> Path:
    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("…")
    if complete:
        checkpoint.commit(folder, record(step))
    return folder


def test_the_newest_complete_one_counts_and_what_was_cut_short_is_removed(tmp_path: Path):
    write(tmp_path, 9, complete=True)
    newest = write(tmp_path, 10, complete=True)
    cut = write(tmp_path, 11, complete=False)
    (tmp_path / "runs").mkdir()
    assert checkpoint.newest(tmp_path) == newest
    assert not cut.exists()
    assert CheckpointRecord.read(newest) == record(10)


def test_there_may_be_none(tmp_path: Path):
    assert checkpoint.newest(tmp_path / "nowhere") is None
    assert checkpoint.newest(tmp_path) is None


def test_a_record_that_was_cut_short_does_not_count(tmp_path: Path):
    folder = write(tmp_path, 1, complete=False)
    (folder / f".{RECORD}.new").write_text('{"step": 1')
    assert checkpoint.newest(tmp_path) is None


def test_older_ones_are_removed(tmp_path: Path):
    for step in (2, 4, 10):
        write(tmp_path, step, complete=True)
    checkpoint.keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4"]


def test_the_journal_goes_on_after_the_checkpoints_step(tmp_path: Path):
    first = journal.Journal(tmp_path, 0)
    for step in (1, 2, 3):
        first.add(step, [f"{step}a", f"{step}b"])
    with (tmp_path / journal.NAME).open("a") as file:
        file.write('{"step": 4, "pai')  # the process died here
    second = journal.Journal(tmp_path, 2)
    assert second.pairs == 4
    second.add(3, ["x"])
    assert journal.read(tmp_path) == [(1, ["1a", "1b"]), (2, ["2a", "2b"]), (3, ["x"])]
