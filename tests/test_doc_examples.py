"""Every Python example of the README and the docs, run against a running stack."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefstream import Client, PairRequest, RunSettings, read_dataset
from tests.processes import wait_until_up
from tests.servers import free_port

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ADDRESS = "http://127.0.0.1:8000"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SIZE = 8
"""Pairs of the examples' batches."""


@dataclass(frozen=True)
class DocExample:
    place: str
    code: str


EXAMPLES = [
    DocExample(f"{path.relative_to(ROOT)}:{text[: block.start()].count(chr(10)) + 1}", block[1])
    for path in DOCS
    for text in [path.read_text()]
    for block in BLOCK.finditer(text)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples find their files."""
    folder = tmp_path_factory.mktemp("examples")
    example = next(iter(read_dataset("toy")))
    [image] = example.images
    assert isinstance(image, bytes)
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(image)
    (folder / "shapes.png").write_bytes(image)
    row = '{"prompt": "What?", "images": ["a.png"], "chosen": "A shape.", "rejected": "A cat."}\n'
    (folder / "pairs.jsonl").write_text(row)
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    said, port = data / "said", free_port()
    command = [sys.executable, "-m", "service", "up", "--port", str(port), "--data", str(data)]
    with said.open("wb") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        wait_until_up(process, said, data / "worker.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0


def test_the_docs_have_examples() -> None:
    assert {example.place.split(":")[0] for example in EXAMPLES} >= {
        "README.md",
        "docs/annotators.md",
        "docs/api.md",
        "docs/data.md",
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.place)
def test_an_example_runs(example: DocExample, url: str, folder: Path) -> None:
    imported = set(re.findall(r"^(?:from|import) (\w+)", example.code, re.MULTILINE))
    assert imported <= {"prefstream", *sys.stdlib_module_names}, "users import prefstream alone"
    program = example.code.replace(ADDRESS, url)
    if ".batches(" in example.code:
        run = re.sub(r"\W", "-", example.place)  # each its own
        _run_until_it_acknowledged(program.replace('"main"', f'"{run}"'), run, url, folder)
        return
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert bool(done.stdout.strip()) == ("print(" in program), "it prints what it says it does"


def _run_until_it_acknowledged(program: str, run: str, url: str, folder: Path) -> None:
    """One that goes on for ever, as a trainer does: until it has had a batch."""
    with Client(url) as client:
        client.put_run(run, RunSettings())
        for number in range(SIZE):
            pair = PairRequest(prompt=f"{number}?", chosen="Yes.", rejected="No.")
            client.append(run, pair)
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=folder, stderr=subprocess.PIPE, env=os.environ
        )
        try:
            end = time.monotonic() + 60
            while sum(g.acknowledged for g in client.run(run).groups) < SIZE:
                assert process.poll() is None, process.stderr and process.stderr.read().decode()
                assert time.monotonic() < end, "it acknowledged nothing"
                time.sleep(0.1)
        finally:
            process.kill()
            process.communicate()
