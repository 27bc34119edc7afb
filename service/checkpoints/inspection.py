"""What prefstream makes of a checkpoint: its files are read, no weights and no engine."""

# pyright: standard
# transformers does not say all of its types.

import importlib.metadata
from pathlib import Path
from typing import Any

from service import model_names
from service.checkpoints.chat_template import NoChatTemplate
from service.checkpoints.examples import render_examples
from service.checkpoints.input_processor import (
    InputProcessor,
    UnusableCheckpoint,
    load_input_processor,
    sees_by_own_code,
)
from service.checkpoints.inspectors import GROUP, Checkpoint, Judgement
from service.checkpoints.picture_sizes import count_image_tokens
from service.checkpoints.report import CheckpointReport, Finding, Template, in_a_line
from service.checkpoints.settings import InputSettings
from service.checkpoints.weight_files import check_weight_files

INSPECTORS = {
    "serving": "whether the family is proven, and what workers would serve",
    "training": "what would be trained",
}
"""Names of entry points, which are fields of the report; and what they judge, in words."""


class NoCheckpoint(ValueError):
    """There is nothing of that name to look at."""


def inspect_checkpoint(
    model: str, settings: InputSettings, *, trust_remote_code: bool = False
) -> CheckpointReport:
    """
    Args:
        model: a folder, a hub name, or a name that an installed package gives (`toy`).

    Raises:
        NoCheckpoint: with the reason.
        ImportError: transformers is not installed.
    """
    name = model_names.resolve_model(model)
    checkpoint, problem, not_judged = _read_config(name, trust_remote_code)
    report = CheckpointReport(
        model=model,
        folder=name,
        architecture=checkpoint.architecture,
        chat_template_kwargs=settings.chat_template_kwargs,
        mm_processor_kwargs=settings.mm_processor_kwargs,
    )
    if problem is not None:
        report.problems.append(problem)
    report.not_judged += not_judged
    _describe_inputs(report, checkpoint, settings)
    if Path(name).is_dir():
        report.weights, problems = check_weight_files(Path(name))
        report.problems += problems
    else:
        report.not_judged.append("The files of the weights: it is no local folder.")
    _ask_inspectors(report, checkpoint)
    return report


def _read_config(
    name: str, trust_remote_code: bool
) -> tuple[Checkpoint, Finding | None, list[str]]:
    """Also what is wrong, and what cannot be judged."""
    from transformers import AutoConfig, PretrainedConfig

    try:
        raw, _ = PretrainedConfig.get_config_dict(name)
    except OSError as error:
        raise NoCheckpoint(_no_checkpoint(name, error)) from error
    if not raw:
        raise NoCheckpoint(_no_checkpoint(name, "It is empty."))
    architecture = next(iter(raw.get("architectures") or ()), None)
    config, model, problem = None, None, None
    not_judged: list[str] = []
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        if sees_by_own_code(config):
            not_judged.append("The model's parts: transformers has no class of it, vLLM may.")
        else:
            model = _model_without_weights(config, trust_remote_code)
    except Exception as error:  # a model's code raises what it likes
        what = "config.json" if config is None else "config.json as a vision-language model"
        problem = Finding(
            code="model_unknown",
            message=f"transformers makes nothing of {what}: {in_a_line(error)}",
            remedy="Models with code of their own need --trust-remote-code.",
        )
    checkpoint = Checkpoint(name, architecture, config, model, trust_remote_code)
    return checkpoint, problem, not_judged


def _model_without_weights(config: Any, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)


def _no_checkpoint(name: str, reason: object) -> str:
    if (Path(name) / "adapter_config.json").is_file():
        return f"{name} is an adapter alone: inspect the model that it is for."
    if (Path(name) / "config.json").is_file():
        return f"{name} is no checkpoint: its config.json cannot be read. {in_a_line(reason)}"
    if Path(name).is_dir():
        return f"{name} is no checkpoint: there is no config.json in it."
    return (
        f"There is no checkpoint {name}: it is no folder, and as a name on the hub it cannot be "
        f"read. {in_a_line(reason)}"
    )


def _describe_inputs(
    report: CheckpointReport, checkpoint: Checkpoint, settings: InputSettings
) -> None:
    """How conversations and pictures become the model's inputs."""
    if checkpoint.config is None:
        report.not_judged.append("Conversations and pictures: config.json is not understood.")
        return
    try:
        inputs = load_input_processor(
            checkpoint.name, settings, trust_remote_code=checkpoint.trust_remote_code
        )
    except NoChatTemplate as error:
        report.problems.append(_finding("no_chat_template", error))
    except UnusableCheckpoint as error:
        report.problems.append(_finding("unusable", error))
    except Exception as error:  # transformers raises what it likes
        report.problems.append(
            Finding(
                code="processor_unreadable",
                message=f"transformers cannot load its processor: {in_a_line(error)}",
                remedy="Fetch all small files of the checkpoint, such as tokenizer.json and "
                "preprocessor_config.json. Code of its own needs --trust-remote-code.",
            )
        )
    else:
        size = len(inputs.renderer.tokenizer)
        if 0 <= inputs.feature_token_id < size:
            _describe_rendering(report, checkpoint, inputs)
            _describe_pictures(report, checkpoint, inputs)
            return
        report.problems.append(
            Finding(
                code="image_token_unknown",
                message=f"config.json names {inputs.feature_token_id} as the token that "
                f"stands for an image, which the tokenizer does not know: it has {size}.",
                remedy="The tokenizer may be the language model's own. Take the one that was "
                "published with the checkpoint.",
            )
        )
    report.not_judged.append("What an example conversation becomes, k and the digest.")


def _describe_rendering(
    report: CheckpointReport, checkpoint: Checkpoint, inputs: InputProcessor
) -> None:
    renderer = inputs.renderer
    report.chat_template = Template(source=inputs.template.source, text=inputs.template.text)
    report.image_token = renderer.image_token
    report.digest = inputs.digest
    report.examples, problems, notes = render_examples(renderer)
    report.problems += problems
    report.notes += notes
    _describe_ends(report, checkpoint, inputs)


def _describe_ends(
    report: CheckpointReport, checkpoint: Checkpoint, inputs: InputProcessor
) -> None:
    """At which tokens the model stops."""
    from transformers import GenerationConfig

    renderer = inputs.renderer
    size = len(renderer.tokenizer)
    ends = sorted(renderer.end_token_ids)
    report.ends = [renderer.tokenizer.convert_ids_to_tokens(end) for end in ends if end < size]
    if unknown := [end for end in ends if end >= size]:
        report.problems.append(
            Finding(
                code="ends_unknown",
                message=f"generation_config.json ends answers by the ids {unknown}, of which the "
                f"tokenizer knows none: it has {size}.",
                remedy="Correct its `eos_token_id`.",
            )
        )
    try:
        named = GenerationConfig.from_pretrained(checkpoint.name).eos_token_id
    except OSError:
        named = None
    if named is None:
        report.notes.append(
            Finding(
                code="ends_not_named",
                message="No generation_config.json names tokens at which the model stops "
                "(`eos_token_id`); the tokenizer's own is the only one.",
            )
        )


def _describe_pictures(
    report: CheckpointReport, checkpoint: Checkpoint, inputs: InputProcessor
) -> None:
    report.image_tokens, problems, not_judged = count_image_tokens(checkpoint, inputs)
    report.problems += problems
    report.not_judged += not_judged


def _ask_inspectors(report: CheckpointReport, checkpoint: Checkpoint) -> None:
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    for name, what in INSPECTORS.items():
        try:
            judge = found[name].load()
            judgement: Judgement = judge(checkpoint)
        except (KeyError, ImportError) as error:
            missing = "" if isinstance(error, KeyError) else f" ({error})"
            room = "worker" if name == "serving" else "trainer"
            report.not_judged.append(
                f"{what[0].upper()}{what[1:]}: prefstream[{room}] is not installed{missing}."
            )
            continue
        setattr(report, name, judgement.judged)
        report.problems += judgement.problems
        report.notes += judgement.notes


def _finding(code: str, error: Exception) -> Finding:
    return Finding(code=code, message=str(error))
