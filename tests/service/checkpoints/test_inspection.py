"""What is said of the toy, of folders as the hub has them, and of what may be wrong with them."""

import json
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from service import model_names
from service.checkpoints.input_processor import load_input_processor
from service.checkpoints.inspection import NoCheckpoint, inspect_checkpoint
from service.checkpoints.report import CheckpointReport
from service.checkpoints.settings import InputSettings
from tests import hub_checkpoints
from tests.service.checkpoints.folders import (
    Change,
    both,
    codes,
    edit,
    edit_text_model,
    example,
    remove,
    write,
)
from trainer.weights.adapter import lora_config

DEFAULTS = InputSettings()

REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system prompts.') }}{% endif %}"
    + hub_checkpoints.VICUNA_TEMPLATE
)
DROPS_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}"
    + hub_checkpoints.VICUNA_TEMPLATE
)
ONE_TURN_ALONE = (
    "{% if messages | length > 2 %}{{ raise_exception('One turn!') }}{% endif %}"
    + hub_checkpoints.VICUNA_TEMPLATE
)
NO_PICTURE = "{% for message in messages %}{{ message.content[-1].text }}{% endfor %}"
TWO_FIRST = "{{ '\n' + bos_token }}" + hub_checkpoints.VICUNA_TEMPLATE
OTHER_END = hub_checkpoints.VICUNA_TEMPLATE.replace(
    "{{ part.text }} ", "{{ part.text }}{% if message.role == 'assistant' %}<pad>{% endif %} "
)
WITH_ENDS = hub_checkpoints.VICUNA_TEMPLATE.replace(
    "{{ part.text }} ", "{{ part.text }} {% if message.role == 'assistant' %}</s>{% endif %}"
)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("published")
    return {
        "llava_15": hub_checkpoints.llava_15(
            folder / "llava_15", template="processor", dtype=torch.float16
        ),
        "llava_16_vicuna": hub_checkpoints.llava_16_vicuna(
            folder / "llava_16_vicuna", sharded=True, dtype=torch.bfloat16
        ),
        "llava_16_mistral": hub_checkpoints.llava_16_mistral(
            folder / "llava_16_mistral", template="named", image_token="image_token_id"
        ),
    }


@pytest.fixture(params=["llava_15", "llava_16_vicuna", "llava_16_mistral"])
def checkpoint(request: pytest.FixtureRequest, published: dict[str, Path]) -> Path:
    return published[request.param]


def changed(original: Path, change: Change, folder: Path) -> CheckpointReport:
    shutil.copytree(original, folder)
    change(folder)
    return inspect_checkpoint(str(folder), DEFAULTS)


def test_nothing_is_wrong_with_the_toy() -> None:
    report = inspect_checkpoint("toy", DEFAULTS)
    assert (report.problems, report.notes, report.not_judged) == ([], [], [])
    assert report.architecture == "LlavaNextForConditionalGeneration"
    assert report.serving is not None
    assert report.serving.proven
    assert report.digest == load_input_processor("toy", DEFAULTS).digest
    assert CheckpointReport.model_validate_json(report.model_dump_json()) == report


def test_published_folders(checkpoint: Path) -> None:
    report = inspect_checkpoint(str(checkpoint), DEFAULTS)
    assert report.problems == []
    assert report.not_judged == []
    assert report.ends == ["</s>"]
    assert report.serving is not None
    assert report.serving.proven
    assert report.serving.head_size == 32
    found = {
        name: (said.source, weights.files > 1, weights.dtypes)
        for name, said, weights in [(checkpoint.name, report.chat_template, report.weights)]
        if said and weights
    }
    assert found == {
        checkpoint.name: {
            "llava_15": ("chat_template.json", False, ["F16"]),
            "llava_16_vicuna": ("chat_template.jinja", True, ["BF16"]),
            "llava_16_mistral": ("tokenizer_config.json, named 'default' of 2", False, ["F32"]),
        }[checkpoint.name]
    }
    # Mistral's template ends every answer, Vicuna's none.
    earlier = "earlier_turns_not_ended" in codes(report.notes)
    assert earlier == (checkpoint.name != "llava_16_mistral")


def test_prompts_are_what_transformers_makes_of_them(checkpoint: Path) -> None:
    """Its processor renders and tokenises by itself, and puts all tokens of a picture there."""
    report = inspect_checkpoint(str(checkpoint), DEFAULTS)
    assert report.chat_template is not None
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    for told in report.examples:
        text = processor.apply_chat_template(
            [message.model_dump() for message in told.conversation],
            chat_template=report.chat_template.text,
            add_generation_prompt=True,
        )
        ids = processor(text=text, images=[Image.new("RGB", (64, 64))])["input_ids"][0]
        placeholder = processor.tokenizer.convert_tokens_to_ids(report.image_token)
        once = [
            token for token, group in groupby(ids) for _ in ([1] if token == placeholder else group)
        ]
        assert told.prompt is not None
        assert told.prompt.ids == once
        assert told.prompt.tokens == processor.tokenizer.convert_ids_to_tokens(once)
        assert told.trained_prompt == told.prompt
        assert told.trained_answer is not None
        assert told.trained_answer.tokens[-1] == told.end == "</s>"
        spoken = processor.tokenizer.decode(told.trained_answer.ids[:-1])
        assert spoken.strip() == told.answer


def test_image_tokens_are_as_many_as_the_models_features(checkpoint: Path) -> None:
    report = inspect_checkpoint(str(checkpoint), DEFAULTS)
    assert {size.tokens for size in report.image_tokens} == (
        {16} if checkpoint.name == "llava_15" else {88, 52, 70}
    )
    assert all(size.features == size.tokens for size in report.image_tokens)


@pytest.mark.parametrize("name", ["toy", "llava_15", "llava_16_mistral"])
def test_what_would_be_trained(name: str, published: dict[str, Path]) -> None:
    folder = str(published.get(name, name))
    training = inspect_checkpoint(folder, DEFAULTS).training
    assert training is not None
    assert training.full_parameters is not None
    model = AutoModelForImageTextToText.from_pretrained(model_names.resolve_model(folder))
    assert sum(training.full_parameters.values()) == model.num_parameters()
    adapter = lora_config(model, rank=training.lora_rank, alpha=1)
    adapted: Any = get_peft_model(model, adapter)
    assert training.lora_parameters == adapted.get_nb_trainable_parameters()[0]
    assert training.lora_layers == len(adapted.base_model.targeted_module_names)


def test_a_template_of_ones_own(published: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(WITH_ENDS)
    folder = str(published["llava_15"])
    own = inspect_checkpoint(folder, InputSettings(chat_template=str(file)))
    its = inspect_checkpoint(folder, DEFAULTS)
    assert own.chat_template is not None
    assert own.chat_template.source == str(file)
    assert (own.problems, own.notes) == ([], [])  # it ends earlier answers, too
    assert own.digest is not None
    assert its.digest is not None
    assert own.digest.differences(its.digest) == ["chat_template"]
    two_turns = example(own, "two turns")
    assert two_turns.prompt is not None
    assert two_turns.prompt.tokens.count("</s>") == 1


def test_arguments_of_the_processor(published: dict[str, Path]) -> None:
    """The processor follows them, the model does not."""
    kwargs = {"crop_size": {"height": 28, "width": 28}}
    settings = InputSettings(mm_processor_kwargs=kwargs)
    report = inspect_checkpoint(str(published["llava_15"]), settings)
    [problem] = report.problems
    assert problem.code == "picture_refused"
    assert "--mm-processor-kwargs" in str(problem.remedy)
    assert report.image_tokens[0].tokens == 4


PROBLEMS: dict[str, tuple[str, Change, str, str]] = {
    "no template": (
        "llava_15",
        remove("chat_template.json"),
        "no_chat_template",
        "--chat-template",
    ),
    "no tokenizer": (
        "llava_15",
        remove("tokenizer.json", "tokenizer.model"),
        "unusable",
        "tokenizer.json",
    ),
    "no image processor": (
        "llava_15",
        remove("preprocessor_config.json"),
        "unusable",
        "preprocessor_config.json",
    ),
    "another tokenizer": (
        "llava_15",
        edit("config.json", image_token_index=50000),
        "image_token_unknown",
        "50000",
    ),
    "no placeholder": (
        "llava_15",
        write("chat_template.json", '{"chat_template": "%s"}' % NO_PICTURE),  # noqa: UP031
        "no_image_placeholder",
        "'<image>'",
    ),
    "no end": (
        "llava_15",
        both(
            edit("tokenizer_config.json", eos_token=None),
            both(
                edit("generation_config.json", eos_token_id=None), remove("special_tokens_map.json")
            ),
        ),
        "no_end_token",
        "eos_token_id",
    ),
    "unknown ends": (
        "llava_15",
        edit("generation_config.json", eos_token_id=[2, 40000]),
        "ends_unknown",
        "[40000]",
    ),
    "another family": (
        "llava_15",
        edit("config.json", architectures=["Glm4vForConditionalGeneration"]),
        "family_unsupported",
        "LlavaForConditionalGeneration",
    ),
    "a model that is too new": (
        "llava_15",
        edit("config.json", model_type="llava_7"),
        "model_unknown",
        "llava_7",
    ),
    "a shard is missing": (
        "llava_16_vicuna",
        remove("model-00002-of-00003.safetensors"),
        "weights_missing",
        "model-00002-of-00003.safetensors",
    ),
    "no weights": ("llava_15", remove("model.safetensors"), "weights_missing", "*.safetensors"),
    "a pointer": (
        "llava_15",
        write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "weights_unreadable",
        "git lfs pull",
    ),
    "half a file": (
        "llava_15",
        lambda folder: write(
            "model.safetensors", (folder / "model.safetensors").read_bytes()[:100_000]
        )(folder),
        "weights_unreadable",
        "model.safetensors",
    ),
    "patches of another size": (
        "llava_15",
        edit("processor_config.json", patch_size=28),
        "image_tokens_wrong",
        "4 image tokens, but the model makes 16",
    ),
    "patches of no size": (
        "llava_15",
        edit("processor_config.json", patch_size=0),
        "picture_refused",
        "zero",
    ),
}
"""Which folder, what is done to it, the problem, and a word that it must have."""


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_is_wrong(case: str, published: dict[str, Path], tmp_path: Path) -> None:
    name, change, code, word = PROBLEMS[case]
    report = changed(published[name], change, tmp_path / name)
    problem = codes(report.problems)[code]
    assert word in f"{problem.message} {problem.remedy}"
    assert len(report.problems) == 1


def test_a_language_model_alone(published: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "vicuna"
    shutil.copytree(published["llava_15"], folder)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    text |= {"architectures": ["LlamaForCausalLM"]}
    write("config.json", json.dumps(text))(folder)
    remove("processor_config.json", "preprocessor_config.json")(folder)
    report = inspect_checkpoint(str(folder), DEFAULTS)
    assert codes(report.problems).keys() == {"model_unknown", "unusable", "family_unsupported"}
    assert "language model alone" in codes(report.problems)["unusable"].message


@pytest.mark.parametrize(
    ("template", "code", "word"),
    [
        (TWO_FIRST, "several_first_tokens", "'<s>'"),
        (OTHER_END, "end_unknown", "'<pad>'"),
        (ONE_TURN_ALONE, "several_turns_refused", "One turn!"),
        ("{{ raise_exception('Never.') }}", "conversation_refused", "Never."),
        ("{{ nonsense(", "conversation_refused", "template"),
    ],
)
def test_what_is_wrong_with_a_template(
    published: dict[str, Path], tmp_path: Path, template: str, code: str, word: str
) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(template)
    settings = InputSettings(chat_template=str(file))
    [problem] = inspect_checkpoint(str(published["llava_15"]), settings).problems
    assert problem.code == code
    assert word in problem.message


@pytest.mark.parametrize(
    ("template", "code"),
    [(REFUSES_SYSTEM, "system_prompt_refused"), (DROPS_SYSTEM, "system_prompt_dropped")],
)
def test_system_prompts_that_do_not_arrive_are_a_note(
    published: dict[str, Path], tmp_path: Path, template: str, code: str
) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(template)
    settings = InputSettings(chat_template=str(file))
    report = inspect_checkpoint(str(published["llava_15"]), settings)
    assert code in codes(report.notes)
    assert report.problems == []
    assert (example(report, "system prompt").refused is None) == ("refused" not in code)


def test_a_head_size_that_a_cpu_lacks_is_a_note(published: dict[str, Path], tmp_path: Path) -> None:
    change = edit_text_model(num_attention_heads=4, num_key_value_heads=4, head_dim=16)
    report = changed(published["llava_15"], change, tmp_path / "folder")
    assert "16" in codes(report.notes)["no_cpu_attention"].message
    assert report.problems == []


def test_ends_that_nothing_names_are_a_note(published: dict[str, Path], tmp_path: Path) -> None:
    change = remove("generation_config.json")
    report = changed(published["llava_15"], change, tmp_path / "folder")
    assert "ends_not_named" in codes(report.notes)
    assert report.ends == ["</s>"]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (None, "there is no config.json"),
        (("adapter_config.json", "{}"), "is an adapter alone"),
        (("config.json", "{"), "cannot be read"),
        (("config.json", "{}"), "It is empty"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, file: tuple[str, str] | None, reason: str) -> None:
    if file:
        write(*file)(tmp_path)
    with pytest.raises(NoCheckpoint, match=reason):
        inspect_checkpoint(str(tmp_path), DEFAULTS)
