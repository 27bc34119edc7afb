"""Objects in texts and in annotations, and CHAIR against a count by hand."""

import json
from pathlib import Path

import pytest

from trainer.data import InvalidDataset
from trainer.evaluation import captions
from trainer.evaluation.objects import Vocabulary, annotations, read_synonyms
from trainer.evaluation.synonyms import SYNONYMS

COCO = Vocabulary(SYNONYMS)


def test_the_table_is_of_cocos_objects() -> None:
    assert len(SYNONYMS) == 80
    words = [word for name, more in SYNONYMS.items() for word in (name, *more)]
    assert len(words) == len(set(words)), "a word that names two objects"


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("Two men sit on a bench.", ["person", "bench"]),
        ("A woman feeds geese; the birds wait.", ["person", "bird", "bird"]),
        ("Knives, wine-glasses and a sofa.", ["knife", "wine glass", "couch"]),
        ("A teddy bear, no bear.", ["teddy bear", "bear"]),
        ("A hot dog beside a dog.", ["hot dog", "dog"]),
        ("People at the train station wait for buses.", ["person", "bus"]),
        ("A cattle truck. Scissors! Broccoli?", ["cow", "truck", "scissors", "broccoli"]),
        ("A carpet, a scatter of batteries, a boatload.", []),
        ("The CATS' puppies", ["cat", "dog"]),
        # CHAIR's rules for a word before the noun
        ("A baby elephant stands by its mother.", ["elephant"]),
        ("An adult giraffe and two baby giraffes.", ["giraffe", "giraffe"]),
        ("A baby kitten, a baby animal, an adult-bear cub.", ["cat", "bear"]),
        ("A baby and an elephant.", ["person", "elephant"]),
        ("A passenger jet over passenger trains.", ["airplane", "train"]),
        ("A passenger waits for a passenger bus.", ["person", "bus"]),
        ("Two baseball players.", ["person"]),
        (
            "A baseball player swings a bat at a baseball.",
            ["person", "baseball bat", "sports ball"],
        ),
        ("A tennis player, a soccer player, ball players.", ["person"] * 3),
        ("Baseball fields, football games, a basketball court.", []),
        ("Clock towers, a clock tower and a clock.", ["clock"] * 3),
        ("Two persons sit.", ["person"]),
        ("Policemen on bikes.", ["person", "bicycle"]),
        ("Train tracks and bus stops.", []),
        ("He wears a bow tie on a toilet seat.", ["tie", "toilet"]),
        ("", []),
    ],
)
def test_mentions(text: str, mentioned: list[str]) -> None:
    assert COCO.mentions(text) == mentioned


def test_other_objects_and_other_words(tmp_path: Path) -> None:
    file = tmp_path / "words.json"
    file.write_text('{"red ball": ["ball", "red sphere"]}')
    vocabulary = Vocabulary(["red ball", "city"], read_synonyms(file))
    text = "Red spheres and a ball before two cities and a couch."
    assert vocabulary.mentions(text) == ["red ball", "red ball", "city"]
    file.write_text("[1]")
    with pytest.raises(InvalidDataset, match="no JSON object of lists of words"):
        read_synonyms(file)


def test_qualified_objects_that_no_image_has_are_no_persons() -> None:
    assert Vocabulary(["person", "cat"]).mentions("A baby elephant and a baby cat.") == ["cat"]
    assert Vocabulary(["elephant"]).mentions("A football player on a baby elephant") == ["elephant"]


@pytest.mark.parametrize("objects", ['"cat, dog"', "null", '["cat", 7]', '{"cat": 1}', "7"])
def test_objects_are_a_list_of_names(tmp_path: Path, objects: str) -> None:
    file = tmp_path / "objects.jsonl"
    good = '{"image": "a.jpg", "objects": ["cat"]}'
    file.write_text(f'{good}\n{{"image": "b.jpg", "objects": {objects}}}\n')
    with pytest.raises(InvalidDataset, match=r"objects\.jsonl, row 2 is not \{image, objects: \["):
        annotations(file)
    file.write_text(f'{good}\n{{"image": "a.jpg", "objects": ["dog"]}}\n{{"image"')
    with pytest.raises(InvalidDataset, match=r"row 3 is not JSON"):
        annotations(file)
    file.write_text(f'{good}\n{{"image": "a.jpg", "objects": ["dog"]}}\n')
    assert annotations(file) == {"a.jpg": frozenset({"cat", "dog"})}
    words = tmp_path / "words.json"
    words.write_text('{"cat": "kitten"}')
    with pytest.raises(InvalidDataset, match="no JSON object of lists of words"):
        read_synonyms(words)


def test_annotations_of_both_layouts(tmp_path: Path) -> None:
    expected = {"a.jpg": frozenset({"cat", "dog"}), "b.jpg": frozenset()}
    instances = {
        "info": {"year": 2014},
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 17, "bbox": [0, 0, 1.5, 1]},
            {"id": 8, "image_id": 1, "category_id": 18, "segmentation": [[1.0]]},
            {"id": 9, "image_id": 1, "category_id": 17},
        ],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    lines = [{"image": "a.jpg", "objects": ["dog", "cat"]}, {"image": "b.jpg", "objects": []}]
    (tmp_path / "objects.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert annotations(tmp_path / "instances.json") == expected
    assert annotations(tmp_path / "objects.jsonl") == expected


def test_what_is_neither_is_said(tmp_path: Path) -> None:
    for name, content in (("a.json", "{"), ("b.jsonl", '{"image": "x"}'), ("c.jsonl", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InvalidDataset, match=r"is neither COCO's|has no images|row 1 is not"):
            annotations(tmp_path / name)
    with pytest.raises(InvalidDataset, match="cannot be read"):
        annotations(tmp_path / "none.json")


def test_chair_against_a_count_by_hand() -> None:
    texts = [
        "A cat and a dog play with a ball. The dog jumps.",  # cat, dog, ball (false), dog
        "A man rides a horse.",  # all true
        "A kitchen.",  # no mention
        "Chairs around a table with a vase and cups.",  # chair, table; vase and cup are false
    ]
    present = [
        frozenset({"cat", "dog", "person"}),
        frozenset({"person", "horse"}),
        frozenset({"oven", "sink"}),
        frozenset({"chair", "dining table", "bowl"}),
    ]
    caption_metrics = captions.caption_metrics(texts, present, COCO, [False, False, True, False])
    assert caption_metrics.captions == 4
    assert caption_metrics.chair_i == pytest.approx(3 / 10)
    assert caption_metrics.chair_s == pytest.approx(2 / 4)
    assert caption_metrics.recall == pytest.approx((2 + 2 + 0 + 2) / (3 + 2 + 2 + 3))
    assert caption_metrics.mentions == pytest.approx(10 / 4)
    assert caption_metrics.cut == pytest.approx(1 / 4)
