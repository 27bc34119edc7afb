"""The chat template is found in every layout that published folders have, and named by its file."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from service.checkpoints.chat_template import ChatTemplate, NoChatTemplate, find_chat_template
from tests import hub_checkpoints
from tests.hub_checkpoints import OTHER_TEMPLATE, VICUNA_TEMPLATE, TemplateLayout

left_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""transformers does not close the files of `additional_chat_templates/`."""


def folder(path: Path, layout: TemplateLayout) -> Any:
    return AutoProcessor.from_pretrained(
        hub_checkpoints.llava_15(path, template=layout, weights=False)
    )


@left_open
@pytest.mark.parametrize(
    ("layout", "source"),
    [
        ("jinja", "chat_template.jinja"),
        ("additional", "chat_template.jinja, named 'default' of 2"),
        ("processor", "chat_template.json"),
        ("tokenizer", "tokenizer_config.json"),
        ("named", "tokenizer_config.json, named 'default' of 2"),
    ],
)
def test_it_is_found_wherever_it_is(tmp_path: Path, layout: TemplateLayout, source: str) -> None:
    found = find_chat_template(folder(tmp_path, layout))
    assert found == ChatTemplate(VICUNA_TEMPLATE, source)


@left_open
@pytest.mark.parametrize(
    ("layout", "source"),
    [
        ("additional", "additional_chat_templates/other.jinja, named 'other' of 2"),
        ("named", "tokenizer_config.json, named 'other' of 2"),
    ],
)
def test_one_of_several_is_chosen_by_name(
    tmp_path: Path, layout: TemplateLayout, source: str
) -> None:
    found = find_chat_template(folder(tmp_path, layout), "other")
    assert found == ChatTemplate(OTHER_TEMPLATE, source)


def test_a_file_that_is_given_counts_before_the_checkpoints_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ 'mine' }}")
    processor = folder(tmp_path / "checkpoint", "jinja")
    assert find_chat_template(processor, str(file)) == ChatTemplate("{{ 'mine' }}", str(file))


def test_the_processors_counts_before_the_tokenizers(tmp_path: Path) -> None:
    processor = folder(tmp_path, "jinja")
    processor.tokenizer.chat_template = "{{ 'of the tokenizer' }}"
    assert find_chat_template(processor).text == VICUNA_TEMPLATE


def test_a_template_that_is_in_no_file_is_named_by_its_owner(tmp_path: Path) -> None:
    processor = folder(tmp_path, "jinja")
    processor.chat_template = "{{ 'set by hand' }}"
    assert find_chat_template(processor).source == "the processor's"


def test_without_one_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoChatTemplate, match=r"has no chat template.*--chat-template FILE"):
        find_chat_template(folder(tmp_path, "none"))


def test_several_of_which_none_is_the_default_one(tmp_path: Path) -> None:
    processor = folder(tmp_path, "none")
    processor.tokenizer.chat_template = {"rag": "{{ 1 }}", "tools": "{{ 2 }}"}
    with pytest.raises(NoChatTemplate, match=r"several.*\(rag, tools\).*--chat-template NAME"):
        find_chat_template(processor)
    assert find_chat_template(processor, "rag").text == "{{ 1 }}"


@pytest.mark.parametrize(
    ("layout", "reason"), [("named", "these by name: default, other"), ("none", "no template of")]
)
def test_a_name_that_is_not_there(tmp_path: Path, layout: TemplateLayout, reason: str) -> None:
    with pytest.raises(NoChatTemplate, match=f"no such file.*{reason}"):
        find_chat_template(folder(tmp_path, layout), "nosuch")
