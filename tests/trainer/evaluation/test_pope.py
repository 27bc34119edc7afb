"""POPE's files and figures, against a count by hand."""

import json
from pathlib import Path

import pytest

from tests.trainer.data import samples
from trainer.data import InvalidDataset
from trainer.evaluation import pope


def row(number: int, label: str = "yes", **fields: object) -> dict[str, object]:
    return {
        "question_id": number,
        "image": samples.JPEG,
        "text": f"Is there a cup {number}?",
        "label": label,
        **fields,
    }


def test_a_file_is_lines_of_json_whatever_its_name(tmp_path: Path) -> None:
    samples.write(tmp_path, "other.jsonl", [])
    file = tmp_path / "coco_pope_random.json"
    file.write_text("\n".join(json.dumps(row(n, "yes" if n % 2 else "no")) for n in range(3)))
    probes = pope.read(file, [], suffix=" Answer yes or no.")
    assert [probe.yes for probe in probes] == [False, True, False]
    assert probes[1].question.prompt == "Is there a cup 1? Answer yes or no."
    assert probes[1].question.image == tmp_path / samples.JPEG


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(1, "maybe"), r"a\.jsonl, row 2: its label is 'maybe', not yes or no"),
        (row(1, image="gone.jpg"), "row 2: there is no image gone.jpg"),
        ({"text": "?", "label": "yes"}, "row 2 has no field 'image'"),
        (row(1, text=None), "row 2: it is not a text about one image"),
        (row(1, image=[]), "row 2: it is not a text about one image"),
        (row(1, image=7), "row 2: an image is int"),
        (row(1, image="x" * 5000), r"there is no image x+… \(5000 characters\)"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, bad: dict[str, object], reason: str) -> None:
    file = samples.write(tmp_path, "a.jsonl", [row(0), bad])
    with pytest.raises(InvalidDataset, match=reason):
        pope.read(file, [])


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("Yes, there is a cup. No doubt.", True),
        ("No", False),
        ("No, there is none.", False),
        ("There is not, as far as I see", False),
        ("There are no cups in it.", False),
        ("Nothing", True),  # POPE's rule looks for three words
        ("", True),
    ],
)
def test_answers_are_read_by_popes_rule(answer: str, yes: bool) -> None:
    assert pope.says_yes(answer) is yes


@pytest.mark.parametrize(
    ("answer", "yes", "unclear"),
    [
        ("Yes", True, False),
        ("yes, there is", True, False),
        (" No", False, False),
        ("No, there is none.", False, False),
        # a person reads no, and the published rule yes
        ("No\n\nIt is a cat.", True, True),
        ("\nNo", True, True),
        ("NO", True, True),
        ("No!", True, True),
        ("no;", True, True),
        ("**No**", True, True),
        ("None of these.", True, True),
        ("There isn't a dog.", True, True),
        # the other way round
        ("Yes, there is not only a dog but a cat.", False, True),
        ("Yes and no", False, True),
        # nobody knows
        ("Not sure.", True, True),
        ("Yesterday", True, True),
        ("Notably, there is a dog.", True, True),
        ("North of it", True, True),
        ("There is no dog.", False, True),
        ("", True, True),
    ],
)
def test_unclear_tells_where_the_rule_may_be_wrong(answer: str, yes: bool, unclear: bool) -> None:
    figures = pope.pope_metrics([answer], [True])
    assert (figures.yes, figures.unclear) == (yes, unclear)


def test_figures_against_a_count_by_hand() -> None:
    said = [True] * 5 + [False] * 5
    truths = [True, True, True, False, False, True, False, False, False, False]
    pope_metrics = pope.pope_metrics(["Yes." if yes else "No." for yes in said], truths)
    # 3 true positives, 2 false positives, 1 false negative, 4 true negatives.
    assert pope_metrics.questions == 10
    assert pope_metrics.accuracy == pytest.approx(0.7)
    assert pope_metrics.precision == pytest.approx(3 / 5)
    assert pope_metrics.recall == pytest.approx(3 / 4)
    assert pope_metrics.f1 == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert (pope_metrics.yes, pope_metrics.unclear) == (0.5, 0.0)


def test_one_sided_answers_divide_by_nothing() -> None:
    never = pope.pope_metrics(["No.", "Maybe not."], [True, False])
    assert (never.precision, never.recall, never.f1, never.yes) == (0.0, 0.0, 0.0, 0.0)
    assert (never.accuracy, never.unclear) == (0.5, 0.5)


def test_rows_are_named_for_what_sets_them_apart() -> None:
    files = [Path("coco_pope_random.json"), Path("coco_pope_popular.json")]
    assert list(pope.names(files)) == ["random", "popular"]
    files = [Path("coco_pope_random.json"), Path("gqa_pope_random.json")]
    assert list(pope.names(files)) == ["coco_pope_random", "gqa_pope_random"]
