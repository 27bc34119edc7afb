"""ε_s, carried over from one embedder to another."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from worker.compare_embedders import compare_embedders, equivalent_threshold


def test_the_other_threshold_lets_as_many_pass() -> None:
    first = np.array([0.90, 0.95, 0.98, 0.99])
    other = np.array([0.50, 0.60, 0.80, 0.90])
    own, agreement = equivalent_threshold(first, other, threshold=0.97)
    assert (other < own).tolist() == [True, True, False, False]
    assert agreement == 1.0


def test_disagreement_is_counted() -> None:
    first = np.array([0.90, 0.95, 0.98, 0.99])
    own, agreement = equivalent_threshold(first, first[::-1].copy(), threshold=0.97)
    assert agreement == 0.0
    assert own > 0.95


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(compare_embedders)
    return app


def test_an_embedder_agrees_with_itself(command: typer.Typer, tmp_path: Path) -> None:
    texts = ["a red circle", "a red square", "a blue square", "two dogs run", "a red circle."]
    lines = [json.dumps({"text": text, "reference": "a red circle"}) for text in texts]
    (tmp_path / "responses.jsonl").write_text("\n".join(lines))
    arguments = [str(tmp_path / "responses.jsonl"), "--embedder", "embedded"]
    ran = CliRunner().invoke(command, [*arguments, "--embedder", "embedded"])
    assert ran.exit_code == 0, ran.output
    assert ran.output.count("100.0%") >= 5
    alone = CliRunner().invoke(command, arguments)
    assert alone.exit_code == 2
    assert "two embedders" in alone.output


def test_a_file_of_something_else_is_refused(command: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("[]\n3")
    ran = CliRunner().invoke(
        command, [str(tmp_path / "x"), "--embedder", "embedded", "--embedder", "embedded"]
    )
    assert ran.exit_code == 2
    assert "responses.jsonl" in ran.output
