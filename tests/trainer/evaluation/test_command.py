"""`prefstream evaluate` on the toy policy, through a real service and a real worker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from service.settings import Settings
from tests.servers import Server
from tests.service.http import served
from trainer.evaluation import pope
from trainer.evaluation.command import evaluate
from trainer.toy import CHECKPOINT
from trainer.toy.dataset import Item, held_out, png
from trainer.toy.judge import score_caption
from trainer.toy.recipe.measure import answer
from trainer.toy.recipe.model import load

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "PREFSTREAM_WORKER_EMBEDDER": "embedded",
    "PREFSTREAM_WORKER_ENFORCE_EAGER": "1",
    "PREFSTREAM_WORKER_DTYPE": "float32",
    "PREFSTREAM_WORKER_GPU_MEMORY_UTILIZATION": "0.1",
    "PREFSTREAM_WORKER_MAX_LORA_RANK": "8",
    "PREFSTREAM_WORKER_TTL_S": "120",  # a busy machine's worker may be silent for a while
}


@pytest.fixture(scope="module")
def stack(
    servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A service with a worker on the shipped policy, and the worker's log."""
    server = servers["valkey"]
    server.flush()
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    environment = {**os.environ, **ENVIRONMENT, "PREFSTREAM_REDIS_URL": server.url}
    with served(Settings(redis_url=server.url)) as url, log.open("wb") as output:  # pyright: ignore[reportArgumentType]
        worker = subprocess.Popen(
            [sys.executable, "-m", "service", "work", "--model", "toy"],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while not httpx.get(f"{url}/health/ready").json()["workers"]:
                assert worker.poll() is None, log.read_text()[-3000:]
            yield url, log
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def run(*arguments: object) -> dict[str, Any]:
    """The figures of an evaluation."""
    out = next(Path(str(b)) for a, b in pairwise(arguments) if a == "--out")
    result = CliRunner().invoke(evaluate, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text())


def by_transformers(items: list[Item]) -> list[str]:
    """What the checkpoint answers without a service."""
    return answer(*load(CHECKPOINT), items)


def write(folder: Path, name: str, items: list[Item], rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, (item, row) in enumerate(zip(items, rows, strict=True)):
        row["image"] = f"{number}.png"
        (folder / row["image"]).write_bytes(png(item))
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_pope(stack: tuple[str, Path], tmp_path: Path) -> None:
    sets = {
        name: held_out(12, kinds=("yes_no",), seed=seed)
        for seed, name in enumerate(("random", "popular"))
    }
    files = [
        write(
            tmp_path / name,
            f"toy_pope_{name}.jsonl",
            items,
            [
                {"question_id": i, "text": item.prompt, "label": item.reference.split(",")[0]}
                for i, item in enumerate(items)
            ],
        )
        for name, items in sets.items()
    ]
    kept = ("--answers", tmp_path / "answers.jsonl")
    report = run("pope", *files, "--url", stack[0], *kept, "--out", tmp_path / "pope.json")
    assert (report["benchmark"], report["models"], report["versions"]) == ("pope", ["toy"], [0])
    expected = {}
    for name, items in sets.items():
        truths = [item.reference.startswith("Yes") for item in items]
        expected[name] = pope.pope_metrics(by_transformers(items), truths)
        assert report["figures"][name] == pytest.approx(
            {field: getattr(expected[name], field) for field in report["figures"][name]}
        )
    mean = report["figures"]["mean"]
    assert mean["questions"] == 24
    assert mean["accuracy"] == pytest.approx(sum(f.accuracy for f in expected.values()) / 2)

    # All answers are kept: asked again, nobody has to answer.
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 24
    jobs_before = _jobs(stack[0])
    again = run("pope", *files, "--url", stack[0], *kept, "--out", tmp_path / "again.json")
    assert again["figures"] == report["figures"]
    assert _jobs(stack[0]) == jobs_before


def _jobs(url: str) -> int:
    return len(httpx.get(f"{url}/jobs", params={"state": "ended", "limit": 1000}).json()["jobs"])


def test_captions(stack: tuple[str, Path], tmp_path: Path) -> None:
    items = [i for i in held_out(40, kinds=("caption",)) if i.prompt == "Describe the image."][:12]
    rows = [{"objects": sorted({shape.name for shape in item.scene.shapes})} for item in items]
    file = write(tmp_path, "objects.jsonl", items, rows)
    report = run(
        *("captions", file, "--prompt", "Describe the image.", "--url", stack[0]),
        *("--version", 0, "--max-tokens", 96, "--out", tmp_path / "captions.json"),
    )
    figures = report["figures"]["captions"]
    assert figures["captions"] == len(items)
    texts = by_transformers(items)
    present = [set(row["objects"]) for row in rows]
    named = [
        [f"{c.color} {c.kind}" for c in score_caption(text, item.scene).claims]
        for text, item in zip(texts, items, strict=True)
    ]
    known = set().union(*present)  # what no image has, the vocabulary does not know
    named = [[name for name in names if name in known] for names in named]
    false = [sum(n not in p for n in names) for names, p in zip(named, present, strict=True)]
    assert figures["chair_i"] == pytest.approx(sum(false) / sum(map(len, named)))
    assert figures["chair_s"] == pytest.approx(sum(f > 0 for f in false) / len(items))
    recalled = sum(len(p & set(names)) for names, p in zip(named, present, strict=True))
    assert figures["recall"] == pytest.approx(recalled / sum(map(len, present)))


def test_the_toy_world(stack: tuple[str, Path], tmp_path: Path) -> None:
    report = run("toy", "--images", 16, "--url", stack[0], "--out", tmp_path / "toy.json")
    figures = report["figures"]["held-out"]
    items = held_out(16, kinds=("caption", "yes_no"))
    right = [
        text[:3] == item.reference[:3]
        for text, item in zip(by_transformers(items), items, strict=True)
        if item.kind == "yes_no"
    ]
    assert figures["yes_no_accuracy"] == pytest.approx(sum(right) / len(right))


def test_what_goes_wrong_is_said(stack: tuple[str, Path], tmp_path: Path) -> None:
    url = ("--url", stack[0])
    (tmp_path / "bad.jsonl").write_text('{"image": "a.png", "text": "?", "label": "yes"}')
    (tmp_path / "none.jsonl").write_text("")
    cases = [
        (("pope", tmp_path / "bad.jsonl", *url), "there is no image a.png"),
        (("pope", tmp_path / "none.jsonl", *url), "has no questions"),
        (("pope", tmp_path / "gone.jsonl", *url), "There is no"),
        (("captions", tmp_path / "none.jsonl", *url), "has no images"),
        (("toy", "--url", "ftp://nowhere"), "'ftp://nowhere' starts with none of http://"),
    ]
    for arguments, reason in cases:
        result = CliRunner().invoke(evaluate, list(map(str, arguments)))
        assert result.exit_code == 2, result.output
        assert reason in result.output.replace("\n", " ")


def test_the_command_is_light_to_import() -> None:
    heavy = (
        "import sys, trainer.evaluation.command; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'trl', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", heavy], timeout=60).returncode == 0
