"""Kill -9 at any place: the same command goes on, without a row twice and without one missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.schemas import user_turn
from tests.servers import Server
from tests.trainer.export.made import put
from tests.trainer.export.test_formats import pair_of

PAIRS = 10


@pytest.mark.parametrize("to", ["ms-swift", "hf"])
def test_a_killed_export_resumes(to: str, server: Server, tmp_path: Path) -> None:
    made = [
        pair_of([user_turn("?", number % 3)], images=number % 3).model_copy(
            update={"pair_id": f"p{number}"}
        )
        for number in range(PAIRS)
    ]
    put(server.url, made)
    command = [sys.executable, "-m", "tests.trainer.export.kills", server.url, to, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20
