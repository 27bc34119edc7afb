"""The experiment: its cells resume, its table and plot say what was measured, and a small one runs
through the real service, worker and trainer."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from typer import Exit

from trainer.experiment import command, pairs, report
from trainer.experiment.cell import Cell, CellMetrics, SettingsMismatch
from trainer.experiment.command import chosen, experiment, missing
from trainer.experiment.plan import METHODS, ExperimentPlan, training
from trainer.toy.dataset import examples
from trainer.toy.judge import read_yes_no, score_caption

PLAN = ExperimentPlan(references=16, steps=4, images=8)


def save(out: Path, method: str, seed: int, accuracy: float, hallucination: float = 0.5) -> None:
    Cell(
        method=method,
        seed=seed,
        plan=PLAN,
        training=training(PLAN, METHODS[method]) if METHODS[method].source else {},
        pairs=0 if method == "base" else 16,
        made=None,
        versions=0,
        measured=CellMetrics(
            images=8,
            yes_no_accuracy=accuracy,
            yes_share=0.5,
            hallucination_rate=hallucination,
            object_recall=0.9,
            well_formed=1.0,
        ),
        seconds=1.5,
        finished_at=datetime.now(UTC),
    ).save(out)


# --- cells ---------------------------------------------------------------------------------------


def test_what_is_missing_is_what_was_not_saved(tmp_path: Path):
    jobs = chosen(["base", "sft"], None)
    assert [(m.name, s) for m, s in jobs] == [
        (name, seed) for name in ("base", "sft") for seed in range(3)
    ]
    save(tmp_path, "base", 1, 0.8)
    save(tmp_path, "sft", 0, 0.9)
    left = [(m.name, s) for m, s in missing(tmp_path, PLAN, jobs)]
    assert left == [("base", 0), ("base", 2), ("sft", 1), ("sft", 2)]


def test_cells_of_other_settings_are_not_mixed_in(tmp_path: Path):
    save(tmp_path, "sft", 0, 0.9)
    other = PLAN.model_copy(update={"learning_rate": 5e-4})
    with pytest.raises(SettingsMismatch, match=r"sft-0\.json was measured with other settings"):
        missing(tmp_path, other, chosen(["sft"], [0]))


def test_a_method_that_there_is_not_is_named():
    with pytest.raises(ValueError, match=r"no method ppo\. There are: base, sft, dpo-bdhs"):
        chosen(["ppo"], None)


def test_every_methods_settings_are_a_trainers():
    from trainer.settings import TrainerSettings

    for method in METHODS.values():
        if method.source:
            data = {"data": "pairs.jsonl"} if method.file else {}
            settings = TrainerSettings(**training(PLAN, method), **data)
            assert settings.steps == PLAN.steps


def test_the_data_sets_rejected_side_is_false_and_well_formed():
    for number, item in enumerate(examples(60)):
        wrong = pairs.corrupted(item, number)
        if item.kind == "caption":
            score = score_caption(wrong, item.scene)
            assert (score.hallucinated, score.well_formed) == (1, True)
        else:
            assert read_yes_no(wrong) is not read_yes_no(item.reference)
            assert pairs.corrupted(item, number) != item.reference


# --- the report ----------------------------------------------------------------------------------


def test_rows_are_means_with_their_spread_and_the_base_comes_first(tmp_path: Path):
    for seed, accuracy in enumerate((0.9, 0.94, 0.92)):
        save(tmp_path, "sft", seed, accuracy)
    save(tmp_path, "base", 0, 0.8)
    report.write(tmp_path, PLAN)
    base, sft = json.loads((tmp_path / "toy.json").read_text())["rows"]
    assert (base["method"], base["yes_no_accuracy"], base["yes_no_accuracy_spread"]) == (
        "base",
        0.8,
        None,
    )
    assert (sft["method"], sft["yes_no_accuracy"], sft["yes_no_accuracy_spread"]) == (
        "sft",
        0.92,
        0.02,
    )
    assert (sft["seeds"], sft["pairs"]) == ([0, 1, 2], [16, 16, 16])
    assert sft["settings"]["training"]["loss"] == "sft"


def test_the_table_marks_what_has_one_seed_and_what_was_not_run(tmp_path: Path):
    for seed, accuracy in enumerate((0.9, 0.94, 0.92)):
        save(tmp_path, "sft", seed, accuracy)
    save(tmp_path, "dpo-noise", 0, 0.875)
    report.write(tmp_path, PLAN)
    lines = (tmp_path / "toy.md").read_text().splitlines()
    by_method = {name: line for line in lines for name in METHODS if f"(`{name}`)" in line}
    assert by_method["sft"].split("|")[2:4] == [" 92.0 ± 2.0 ", " 50.0 ± 0.0 "]
    assert by_method["dpo-noise"].split("|")[2] == " 87.5 "
    assert "**one**" in by_method["dpo-noise"]
    assert "not run" in by_method["dpo-bdhs"]
    [goes_on] = [line for line in lines if line.startswith("prefstream experiment toy")]
    assert "--steps 4" in goes_on
    assert "--method dpo-bdhs " in goes_on
    assert "--method sft " not in goes_on


def test_what_people_wrote_on_the_page_stays(tmp_path: Path):
    save(tmp_path, "base", 0, 0.8)
    report.write(tmp_path, PLAN)
    page = tmp_path / "toy.md"
    page.write_text(f"Before.\n{report.BEGIN}\nold\n{report.END}\nAfter.\n")
    report.write(tmp_path, PLAN)
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "80.0" in text
    assert "old" not in text


def test_the_plot_has_a_dot_for_every_method(tmp_path: Path):
    sizes: list[int] = []
    for method in ("base", "sft", "dpo-bdhs"):
        save(tmp_path, method, 0, 0.8)
        report.write(tmp_path, PLAN)
        with Image.open(tmp_path / "toy.png") as image:
            sizes.append(image.height)
            assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 10
    assert sizes == sorted(set(sizes))  # a line more for each


# --- a real one ----------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_a_small_experiment_raises_the_margin_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    options = {
        "method": ["base", "dpo-bdhs-nll"],
        "seed": [0],
        "references": 16,
        "steps": 4,
        "images": 8,
    }
    experiment("toy", out, **options)
    base, trained = report.read(out)
    assert (base.method, trained.method) == ("base", "dpo-bdhs-nll")
    assert base.measured.well_formed > 0.9
    assert trained.measured.well_formed > 0.5
    assert 0 < trained.pairs <= 16
    assert json.loads((out / "toy.json").read_text())["rows"][0]["method"] == "base"
    assert margin_of(out / "work" / "dpo-bdhs-nll-0") > 0

    def no_stack(*_: object, **__: object) -> None:
        raise AssertionError("nothing is missing")

    monkeypatch.setattr(command, "LocalStack", no_stack)
    experiment("toy", out, **options)
    with pytest.raises(Exit):  # of a cell that is there, with other settings
        experiment("toy", out, **options | {"steps": 5})


def margin_of(output: Path) -> float:
    """Of the published adapter, on pairs of held-out scenes: 0 before training."""
    from peft import PeftModel

    from service.checkpoints.input_processor import load_input_processor
    from service.checkpoints.settings import InputSettings
    from tests.trainer.margin import margin
    from tests.trainer.pairs import rows_of
    from trainer.methods.collator import RowCollator
    from trainer.toy import CHECKPOINT
    from trainer.toy.dataset import held_out
    from trainer.toy.recipe.model import load

    model, _ = load(CHECKPOINT)
    newest = max((output / "weights").iterdir(), key=lambda folder: int(folder.name))
    policy = PeftModel.from_pretrained(model, str(newest))
    items = held_out(24, kinds=("caption", "yes_no"), seed=1)
    rejected = [pairs.corrupted(item, number) for number, item in enumerate(items)]
    return margin(
        policy, RowCollator(load_input_processor("toy", InputSettings())), rows_of(items, rejected)
    )
