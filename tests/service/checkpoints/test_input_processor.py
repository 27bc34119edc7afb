"""What a checkpoint's files come to, and what is said of folders that cannot work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.checkpoints.input_processor import UnusableCheckpoint, load_input_processor
from service.checkpoints.settings import InputSettings
from service.schemas import user_turn
from tests import hub_checkpoints
from tests.hub_checkpoints import IMAGE


def load(folder: Path | str, **settings: Any):
    return load_input_processor(str(folder), InputSettings(**settings))


IMAGE_TOKEN_NAMES = ("image_token_index", "image_token_id")


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", IMAGE_TOKEN_NAMES)
def test_the_images_token_has_either_name(tmp_path: Path, name: str) -> None:
    folder = hub_checkpoints.llava_15(tmp_path, weights=False, image_token=name)
    assert [n for n in IMAGE_TOKEN_NAMES if n in config_of(folder)] == [name]
    prompt = load(folder).renderer.prompt([user_turn("What is it?", 2)])
    assert prompt.token_ids.count(IMAGE) == 2


def test_every_end_of_the_generation_config_is_one(tmp_path: Path) -> None:
    folder = hub_checkpoints.llava_16_vicuna(tmp_path, weights=False, end_token_ids=(2, 450))
    assert load(folder).renderer.end_token_ids == {2, 450}
    (folder / "generation_config.json").unlink()
    assert load(folder).renderer.end_token_ids == {2}


@pytest.mark.parametrize("make", [hub_checkpoints.llava_15, hub_checkpoints.llava_16_mistral])
def test_a_folder_of_before_there_was_a_processor_config(
    tmp_path: Path, make: Callable[..., Path]
) -> None:
    """It comes to what it is today, and neither to no number of image tokens nor to a wrong one."""
    today = load(make(tmp_path / "today", weights=False))
    folder = make(tmp_path / "older", weights=False)
    (folder / "processor_config.json").unlink()
    older = load(folder)
    assert older.digest == today.digest
    picture = Image.new("RGB", (90, 40), "red")
    [ours, theirs] = [
        inputs.processor(text="<image>", images=picture)["input_ids"][0].count(IMAGE)
        for inputs in (older, today)
    ]
    assert ours == theirs
    assert ours >= 16


def test_the_digest_does_not_tell_where_the_template_is(tmp_path: Path) -> None:
    """But what it says, and the settings beside it."""
    layouts = ("jinja", "processor", "tokenizer")
    digests = [
        load(hub_checkpoints.llava_15(tmp_path / name, weights=False, template=name)).digest
        for name in layouts
    ]
    assert digests[1:] == digests[:-1]
    vicuna = tmp_path / layouts[0]
    other = load(vicuna, chat_template_kwargs={"system": "Be brief."}).digest
    assert digests[0].differences(other) == ["chat_template"]
    mistral = load(hub_checkpoints.llava_16_mistral(tmp_path / "mistral", weights=False)).digest
    assert digests[0].differences(mistral) == ["chat_template", "processor"]


def remove(*names: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return edit


def set_config(**values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(config_of(folder) | values))

    return edit


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove("config.json"), "is a folder without a config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (set_config(model_type="nosuch"), "transformers knows no model like its config.json"),
        (remove("preprocessor_config.json"), r"preprocessor_config\.json"),
        (remove("tokenizer.json", "tokenizer.model"), r"tokenizer\.json"),
    ],
)
def test_a_folder_that_lacks_something_is_told_so(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    folder = hub_checkpoints.llava_15(tmp_path / "checkpoint", weights=False)
    damage(folder)
    with pytest.raises(UnusableCheckpoint, match=reason) as error:
        load(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "no/such/folder", "nobody/no-such-checkpoint"])
def test_a_checkpoint_that_does_not_exist_is_told_so(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnusableCheckpoint, match=f"{name}: there is no such folder here"):
        load(name)


def test_a_template_of_texts_alone_gets_the_images_token_in_them(tmp_path: Path) -> None:
    """As those of language models are."""
    folder = hub_checkpoints.llava_15(tmp_path / "checkpoint", weights=False)
    template = tmp_path / "texts.jinja"
    template.write_text("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}")
    renderer = load(folder, chat_template=str(template)).renderer
    assert renderer.render([user_turn("What is it?", 2)], open_turn=False) == (
        "user: <image>\n<image>\nWhat is it?\n"
    )
    assert renderer.prompt([user_turn("What is it?", 2)]).token_ids.count(IMAGE) == 2
