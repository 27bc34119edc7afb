"""Pairs of a data set whose rows hold their pictures: read in any order, and not held in memory."""

import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.trainer.data import samples
from trainer.stream.dataset import PairDataset
from trainer.stream.spool import ImageSpool

ROWS = 400
PICTURE_BYTES = 100_000


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Of many bytes each: what stands behind the end of a PNG is not looked at."""
    plain = samples.image(kind="PNG")
    return [plain + os.urandom(PICTURE_BYTES) for _ in range(ROWS)]


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    """RLAIF-V's layout, in one group of rows, as some write it."""
    rows = [
        {
            "question": f"What, {number}?",
            "chosen": f"This, {number}.",
            "rejected": "That.",
            "image": {"bytes": picture, "path": f"{number}.png"},
        }
        for number, picture in enumerate(pictures)
    ]
    file = tmp_path_factory.mktemp("data") / "pairs.parquet"
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), file, row_group_size=ROWS, compression="none"
    )
    return file


def test_pictures_of_rows_are_not_held_in_memory(
    parquet: Path, pictures: list[bytes], tmp_path: Path
) -> None:
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    try:
        rows = PairDataset(str(parquet), spool=tmp_path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == ROWS
    size = ROWS * PICTURE_BYTES
    assert held < size / 20
    assert peak < size / 3  # 32 rows at once, as bytes and as they were decoded
    assert pyarrow.total_allocated_bytes() - before < size / 20
    assert not list(tmp_path.iterdir())  # the spool has no name
    for number in (ROWS - 1, 0, 17, 17):
        assert rows[number].images == [pictures[number]]
        assert rows[number].pair.chosen[0].text == f"This, {number}."


def test_a_picture_is_kept_once(tmp_path: Path) -> None:
    spool = ImageSpool(tmp_path)
    first, second = spool.add(b"one"), spool.add(b"another")
    assert spool.add(b"one") == first
    assert [spool.read(slot) for slot in (second, first)] == [b"another", b"one"]


def test_rows_are_read_from_several_threads(
    parquet: Path, pictures: list[bytes], tmp_path: Path
) -> None:
    rows, wrong = PairDataset(str(parquet), spool=tmp_path), list[Any]()

    def read(start: int) -> None:
        for number in range(start, ROWS, 4):
            if rows[number].images != [pictures[number]]:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
