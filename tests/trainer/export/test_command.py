"""The command: what it says, where it stops, and how it goes on."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from prefstream import Bounds, Client, Pair, PairFilters, RunSettings, export
from service.broker import Broker
from service.pair_figures import beyond
from service.schemas import user_turn
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served
from tests.trainer.export.made import RUN, put
from tests.trainer.export.read_back import lines, read_back
from tests.trainer.export.test_formats import pair_of
from trainer.export.command import export as command


def numbered(count: int, start: int = 0) -> list[Pair]:
    """Pairs with a picture each, of 0, 1, 2, … tokens on the rejected side."""
    return [
        pair_of([user_turn("?", 1)], images=1).model_copy(
            update={"pair_id": f"p{number}", "rejected_tokens": number, "settings": {"rho": 0.9}}
        )
        for number in range(start, start + count)
    ]


def ids(out: Path) -> list[str]:
    return [row["pair_id"] for row in lines("ms-swift", out)]


def run_command(*arguments: str) -> Result:
    import typer

    app = typer.Typer()
    app.command()(command)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


def test_it_reads_over_http_as_well(server: Server, tmp_path: Path) -> None:
    put(server.url, numbered(3))
    with served(Settings(redis_url=server.url)) as url:  # pyright: ignore[reportArgumentType]
        done = run_command(RUN, "--to", "hf", "--out", str(tmp_path / "out"), "--url", url)
    assert done.exit_code == 0, done.output
    assert [pair.pair_id for pair in read_back("hf", tmp_path / "out")] == ["p0", "p1", "p2"]
    assert "Pairs written │ 3" in done.output


def test_where_leaves_out_what_a_run_with_these_filters_would(
    server: Server, tmp_path: Path
) -> None:
    put(server.url, numbered(6))
    where = '{"rejected_tokens": {"min": 1, "max": 3}}'
    out = tmp_path / "out"
    done = run_command(
        *(RUN, "--to", "ms-swift", "--out", str(out), "--url", server.url, "--where", where)
    )
    assert done.exit_code == 0, done.output
    assert ids(out) == ["p1", "p2", "p3"]
    assert "Left out by --where: rejected_tokens │ 3" in done.output
    assert "3 pairs lay beyond" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    "filters",
    [
        PairFilters(rejected_tokens=Bounds(min=2)),
        PairFilters(rejected_tokens=Bounds(max=2), chosen_tokens=Bounds(min=5)),
        PairFilters(finish_reasons=["stop"]),
        PairFilters(similarity=Bounds(min=0.5)),
    ],
)
def test_a_filter_here_is_a_filter_of_the_run(server: Server, filters: PairFilters) -> None:
    ended = {"rejected_finish_reason": "length", "chosen_finish_reason": "stop"}
    made = [
        *numbered(4),
        pair_of([user_turn("?", 0)]).model_copy(update={"pair_id": "cut", **ended}),
        pair_of([user_turn("?", 0)]).model_copy(update={"pair_id": "far", "similarity": 0.4}),
    ]

    async def taken() -> list[str]:
        settings = Settings(redis_url=server.url)  # pyright: ignore[reportArgumentType]
        async with Broker.connect(settings) as broker:
            await broker.runs.put(RUN, RunSettings(filters=filters, window=100_000))
            return [pair.pair_id for pair in (await broker.runs.pairs(RUN, None, 100)).pairs]

    asyncio.run(taken())
    put(server.url, made, settings=RunSettings(filters=filters, window=100_000))
    wanted = asyncio.run(taken())
    assert [pair.pair_id for pair in made if not beyond(pair, filters)] == wanted
    assert 0 < len(wanted) < len(made)


def test_the_same_command_goes_on_and_another_is_refused(server: Server, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    again = (RUN, "--to", "ms-swift", "--out", out, "--url", server.url)
    put(server.url, numbered(3))
    assert run_command(*again).exit_code == 0
    put(server.url, numbered(2, start=3))
    assert run_command(*again).exit_code == 0
    assert run_command(*again).exit_code == 0  # nothing new
    assert ids(Path(out)) == [f"p{number}" for number in range(5)]
    assert len(list((Path(out) / "data").iterdir())) == 2
    for other, said in (
        ((RUN, "--to", "hf"), "is an export to ms-swift"),
        ((RUN, "--to", "ms-swift", "--where", '{"similarity": {"min": 0}}'), "--where"),
    ):
        refused = run_command(*other, "--out", out, "--url", server.url)
        assert refused.exit_code == 2
        assert said in refused.output
    with Client(server.url) as client:
        client.delete_run(RUN)
    put(server.url, numbered(1))
    refused = run_command(*again)
    assert refused.exit_code == 2
    assert "made anew" in refused.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("r", "--to", "csv"), "There is no format csv: one of trl,"),
        (("nobody", "--to", "hf"), "nobody"),
        (("r", "--to", "hf", "--where", '{"tokens": {"max": 1}}'), "tokens"),
        (("r", "--to", "hf", "--where", "many"), "--where takes JSON"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    arguments: tuple[str, ...], said: str, server: Server, tmp_path: Path
) -> None:
    put(server.url, [])
    done = run_command(*arguments, "--out", str(tmp_path / "out"), "--url", server.url)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_a_folder_of_something_else_is_left_alone(server: Server, tmp_path: Path) -> None:
    put(server.url, numbered(1))
    (tmp_path / "thesis.tex").write_text("mine")
    done = run_command(RUN, "--to", "hf", "--out", str(tmp_path), "--url", server.url)
    assert done.exit_code == 2
    assert "it is no export" in done.output
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    file = tmp_path / "thesis.tex"
    done = run_command(RUN, "--to", "hf", "--out", str(file), "--url", server.url)
    assert "is a file" in done.output


PROGRAM = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most = int(sys.argv.pop(1))
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
import typer
from trainer.export import exporter
from trainer.export.command import export
exporter.FOLLOW_S = 0.1
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(export)
app()
"""


def process(*arguments: str, most: int = 0) -> subprocess.Popen[str]:
    """The command in a process of its own, whose files have so many bytes at most."""
    command = [sys.executable, "-c", PROGRAM, str(most), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)


@pytest.mark.parametrize("to", ["ms-swift", "hf"])
def test_a_disk_that_takes_no_more_is_a_sentence_and_the_rest_comes_later(
    to: str, server: Server, tmp_path: Path
) -> None:
    put(server.url, numbered(100))
    arguments = (RUN, "--to", to, "--out", str(tmp_path / "out"), "--url", server.url)
    failed = process(*arguments, most=10_000)
    _, said = failed.communicate(timeout=60)
    assert failed.returncode == 2
    assert "File too large" in said
    assert "Traceback" not in said
    assert run_command(*arguments).exit_code == 0
    assert len(read_back(to, tmp_path / "out")) == 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_follows_takes_what_comes_until_it_is_stopped(
    number: signal.Signals, server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = (RUN, "--to", "ms-swift", "--out", str(out), "--url", server.url)
    following = process(*arguments, "--follow")
    try:
        wait(lambda: following.poll() is None and not out.exists(), following)
        put(server.url, numbered(3))
        wait(lambda: ids(out)[-1:] == ["p2"], following)
        put(server.url, numbered(2, start=3))
        wait(lambda: ids(out)[-1:] == ["p4"], following)
        assert run_command(*arguments).output.count("Another process is exporting") == 1
        following.send_signal(number)
        _, said = following.communicate(timeout=30)
    finally:
        following.kill()
        following.communicate()
    assert following.returncode == 0, said
    assert "goes on from here" in said
    assert ids(out) == [f"p{n}" for n in range(5)]


def wait(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_picture_that_is_gone_leaves_its_pair_out(server: Server, tmp_path: Path) -> None:
    missing = numbered(1)[0].model_copy(update={"images": ["sha256:" + "0" * 64]})
    put(server.url, [missing, *numbered(2, start=1)])
    tally = export(RUN, to="ms-swift", out=tmp_path / "out", url=server.url)
    assert tally.left_out == {"an image is no longer stored": 1}
    assert ids(tmp_path / "out") == ["p1", "p2"]


def test_a_picture_is_stored_once(server: Server, tmp_path: Path) -> None:
    noise = io.BytesIO()
    Image.effect_noise((256, 256), 99).save(noise, "PNG")
    with Client(server.url) as client:
        picture = client.store_image(noise.getvalue()).image
    put(server.url, [pair.model_copy(update={"images": [picture]}) for pair in numbered(40)])
    for to in ("ms-swift", "hf"):
        out = tmp_path / to
        export(RUN, to=to, out=out, url=server.url)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        assert len(noise.getvalue()) < size < 2 * len(noise.getvalue())


def test_the_card_says_what_the_pairs_are(server: Server, tmp_path: Path) -> None:
    made = [
        pair.model_copy(update={"metadata": {"dataset": "coco|x\n# no", "row": "1"}})
        for pair in numbered(3)
    ]
    put(server.url, [*made, pair_of([user_turn("?", 3)], images=1)])
    export(
        *(RUN,), to="trl", out=tmp_path / "out", url=server.url, license="cc-by-4.0", origin="A: b"
    )
    _, header, card = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "cc-by-4.0"
    assert yaml.safe_load(header)["configs"][0]["data_files"][0]["path"] == "data/*.parquet"
    for line in (
        "| licence | cc-by-4.0 |",
        "| origin of images, prompts and references | A: b |",
        "| online | 3 |",
        "| 0 | 3 |",
        "| coco\\|x # no | 3 |",
        "| pair | 4 |",
        "| the prompt has not one place for each image | 1 |",
        "- rho: `0.9` (3)",
        f"prefstream replay PAIR_ID --run {RUN}",
        f"prefstream export {RUN} --to trl --out {tmp_path / 'out'}",
    ):
        assert line in card.splitlines(), card
    assert "**rejected tokens**, mean 1" in card
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["tally"]["rows"] == 3
