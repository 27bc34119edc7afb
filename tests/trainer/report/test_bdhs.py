"""The report's figures, by hand; and the report of a real service."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.schemas import (
    BdhsResult,
    BdhsTrace,
    CorruptionTrace,
    ImageTrace,
    IterationTrace,
    Pair,
    assistant_turn,
    user_turn,
)
from trainer.report.bdhs import Variant, VariantResults, responses, table, write
from trainer.report.command import report


def result(*similarities: float) -> BdhsResult:
    """A pair that took as many iterations, each of which kept two tokens."""
    return BdhsResult(
        pairs=[
            Pair(
                prompt=[user_turn("What?", 1)],
                images=["sha256:" + "0" * 64],
                chosen=[assistant_turn("A red circle.")],
                rejected=[assistant_turn("A blue circle.")],
                pair_id="p",
                run=None,
                method="bdhs-attention",
                chosen_version=None,
                rejected_version=0,
                rejected_spans=[],
                similarity=similarities[-1],
                iterations=len(similarities),
                seed=1,
                created_at=datetime.now(UTC),
            )
        ],
        trace=BdhsTrace(
            images=[ImageTrace(tokens=36, views=[])],
            iterations=[
                IterationTrace(
                    guided=True,
                    images=[CorruptionTrace(kept=[1, 2])],
                    sentences=[],
                    text=f"{s}",
                    similarity=s,
                )
                for s in similarities
            ],
        ),
    )


@pytest.fixture
def made() -> VariantResults:
    results = [result(0.5), result(0.99, 0.9), result(0.98, 0.97, 1.0), result(0.99, 0.98, 0.3)]
    references = ["A red circle."] * len(results)
    return VariantResults(Variant("ρ_th 0.99", {"rho": 0.99}), 0.97, 3, results, references)


def test_the_curve_is_the_share_that_differed_by_then(made: VariantResults) -> None:
    assert made.curve == [0.25, 0.5, 0.75]


def test_the_row_says_what_it_took(made: VariantResults) -> None:
    assert made.row["iterations"] == (1 + 2 + 3 + 3) / 4
    assert made.row["tokens_kept"] == 2.0
    assert made.row["references"] == made.row["pairs"] == 4


def test_the_table_has_a_line_for_each_variant(made: VariantResults) -> None:
    assert table([made]).splitlines()[2] == "| ρ_th 0.99 | 25.0% | 50.0% | 75.0% | 2.25 | 2.0 |"


def test_every_response_that_was_compared_is_told(made: VariantResults) -> None:
    lines = responses([made])
    assert len(lines) == 1 + 2 + 3 + 3
    assert lines[2] == {
        "variant": "ρ_th 0.99",
        "iteration": 2,
        "reference": "A red circle.",
        "text": "0.9",
        "similarity": 0.9,
    }


def test_what_is_written(made: VariantResults, tmp_path: Path) -> None:
    write(tmp_path, [made], "About it.", "<html></html>")
    assert json.loads((tmp_path / "bdhs.json").read_text())[0]["differ_by_iteration"][0] == 0.25
    assert (tmp_path / "bdhs.png").read_bytes().startswith(b"\x89PNG")
    assert "About it." in (tmp_path / "bdhs.md").read_text()
    assert len((tmp_path / "responses.jsonl").read_text().splitlines()) == 9


def test_a_data_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    ran = CliRunner().invoke(report, ["bdhs", "--data", str(tmp_path / "none.jsonl")])
    assert ran.exit_code == 2
    assert "none.jsonl" in ran.output


def test_the_report_of_the_toy_model(tmp_path: Path) -> None:
    """Server, service, engine and all."""
    arguments = ["bdhs", "--out", str(tmp_path), "--examples", "4", "--max-iterations", "2"]
    ran = CliRunner().invoke(report, arguments, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    rows = json.loads((tmp_path / "bdhs.json").read_text())
    assert [row["variant"] for row in rows][:2] == ["ρ_th 0", "ρ_th 0.98"]
    kept = {row["variant"]: row["tokens_kept"] for row in rows}
    assert kept["ρ_th 0"] == kept["noise 300"] == 36
    assert kept["ρ_th 1"] == 0
    assert "sha256" in (tmp_path / "examples.html").read_text()
