"""`prefstream inspect`: its exit status, its JSON and what people read; with parts of it absent."""

import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from service.checkpoints.report import CheckpointReport, Finding
from service.commands.checkpoint_view import checkpoint_view
from service.commands.main import app
from tests import hub_checkpoints

ROOT = Path(__file__).parents[3]

WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *more):
        if name.partition(".")[0] in {absent!r}:
            return None
        return self.finder.find_spec(name, *more)
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def __eq__(self, other):  # finders may take themselves out
        return self.finder is other

sys.meta_path[:] = map(Without, sys.meta_path)
from service.commands.main import app
app()
"""
"""The command in a Python that does not have some packages."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_checkpoints.llava_16_vicuna(tmp_path_factory.mktemp("vicuna"))


def inspect(*arguments: object, **environment: str) -> Result:
    runner = CliRunner(env={"COLUMNS": "100", **environment})
    return runner.invoke(app, ["inspect", *map(str, arguments)])


def inspect_without(
    absent: Collection[str], *arguments: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=absent), "inspect", *map(str, arguments)],
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
    )


def test_the_report_as_json() -> None:
    done = inspect("toy", "--json")
    assert done.exit_code == 0
    report = CheckpointReport.model_validate_json(done.stdout)
    assert report.model == "toy"
    assert report.problems == []


def test_every_field_of_the_report_is_described() -> None:
    schema = CheckpointReport.model_json_schema()
    models = {"CheckpointReport": schema, **schema["$defs"]}
    bare = {
        f"{model}.{name}"
        for model, described in models.items()
        for name, field in described["properties"].items()
        if "description" not in field
    }
    assert bare == set()


def test_the_report_for_people() -> None:
    done = inspect("toy")
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    for words in (
        "LlavaNextForConditionalGeneration  proven",
        "the processor's",
        "336x336: 36",
        "asked    <s> USER : <image> ↵ What",
        "▁top ▁left . </s>",
        "at rank 128",
        "Nothing is wrong with it.",
    ):
        assert words in done.stdout


def test_the_documents_show_what_is_printed() -> None:
    document = (ROOT / "docs" / "checkpoints.md").read_text()
    shown = document.partition("$ prefstream inspect toy\n")[2].partition("```")[0]
    printed = inspect("toy").stdout
    assert [line for line in shown.splitlines() if "folder" not in line] == [
        line.rstrip() for line in printed.splitlines() if "folder" not in line
    ]


def test_what_is_wrong_is_a_line_and_exit_status_1(checkpoint: Path) -> None:
    done = inspect(checkpoint, "--chat-template", "other")
    assert done.exit_code == 1
    assert "Problems\n  --chat-template other: there is no such file" in done.stdout


def test_the_workers_environment_counts(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(hub_checkpoints.VICUNA_TEMPLATE + "{{ greeting }}")
    done = inspect(
        checkpoint,
        "--json",
        PREFSTREAM_WORKER_CHAT_TEMPLATE=str(file),
        PREFSTREAM_WORKER_CHAT_TEMPLATE_KWARGS='{"greeting": "Hello!"}',
    )
    report = CheckpointReport.model_validate_json(done.stdout)
    assert report.chat_template is not None
    assert report.chat_template.source == str(file)
    assert report.chat_template_kwargs == {"greeting": "Hello!"}
    prompt = report.examples[0].prompt
    assert prompt is not None
    assert prompt.tokens[-2:] == ["Hello", "!"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["/no/such/folder"], "There is no checkpoint /no/such/folder: it is no folder"),
        (["toy", "--chat-template-kwargs", "{"], "--chat-template-kwargs is no JSON"),
        (["toy", "--mm-processor-kwargs", "[]"], "--mm-processor-kwargs is no JSON object"),
    ],
)
def test_what_cannot_be_looked_at_ends_with_2(arguments: list[str], reason: str) -> None:
    done = inspect(*arguments, HF_HUB_OFFLINE="1")
    assert done.exit_code == 2
    assert done.stderr.startswith(reason)
    assert done.stdout == ""


def test_without_the_worker_it_is_not_said_what_is_served(checkpoint: Path) -> None:
    """As it is where only the trainer is installed, and the worker is a package of its own."""
    done = inspect_without(("vllm", "worker"), checkpoint, "--json")
    assert done.returncode == 0, done.stderr
    report = CheckpointReport.model_validate_json(done.stdout)
    assert report.serving is None
    assert report.training is not None
    [said] = report.not_judged
    assert "whether the family is proven" in said.lower()
    assert "prefstream[worker] is not installed (No module named 'worker')" in said


def test_without_the_engine_all_is_said(checkpoint: Path) -> None:
    done = inspect_without(("vllm", "sentence_transformers", "cachetools"), checkpoint, "--json")
    assert done.returncode == 0, done.stderr
    report = CheckpointReport.model_validate_json(done.stdout)
    assert report.not_judged == []
    assert report.serving is not None
    assert report.serving.proven


def test_without_the_trainer_it_is_not_said_what_is_trained(checkpoint: Path) -> None:
    done = inspect_without(("trl", "peft", "datasets", "accelerate"), checkpoint)
    assert done.returncode == 0, done.stderr
    assert "  proven" in done.stdout
    assert "trained: lora" not in done.stdout
    said = " ".join(done.stdout.partition("Not judged")[2].split())
    assert said.startswith("What would be trained: prefstream[trainer] is not installed")
    assert "No module named 'trl'" in said


def test_where_neither_is_installed_it_says_what_to_install(checkpoint: Path) -> None:
    done = inspect_without(("transformers", "torch"), checkpoint)
    assert done.returncode == 2
    assert "No module named 'transformers'" in done.stderr
    assert "Install prefstream[worker]" in done.stderr


def test_repeated_tokens_are_shown_once_and_names_are_no_markup() -> None:
    report = CheckpointReport.model_validate_json(inspect("toy", "--json").stdout)
    prompt = report.examples[0].prompt
    assert prompt is not None
    place = prompt.tokens.index("<image>")
    prompt.tokens[place : place + 1] = ["<image>"] * 576
    report.model = "[bold]models[/bold]"
    report.problems = [Finding(code="x", message="[/] went wrong.", remedy="[red]Mend it.")]
    console = Console(width=100, file=None)
    with console.capture() as shown:
        console.print(checkpoint_view(report))
    text = shown.get()
    assert "<image>×576 ↵ What" in text
    assert text.startswith("[bold]models[/bold]  Llava")
    assert "  [/] went wrong. [red]Mend it." in text


def test_help_names_the_exit_statuses() -> None:
    text = " ".join(inspect("--help").stdout.split())
    assert "Exit status 1: something is wrong; 2:" in text
    assert json.dumps({}) in text  # the default of what is JSON
