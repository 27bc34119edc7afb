"""A checkpoint's report for people, on a terminal."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from service.checkpoints.report import (
    CheckpointReport,
    Example,
    Finding,
    Serving,
    Training,
    WeightFiles,
)

SPACES = str.maketrans({"Ġ": "▁", "Ċ": "↵", "\n": "↵"})
"""Signs for spaces and line ends, whatever the tokenizer's vocabulary has for them."""

LINE_END = "<0x0A>"
"""A line end in the vocabularies of SentencePiece."""

LISTED = 8


def checkpoint_view(report: CheckpointReport) -> RenderableType:
    """The report, as short as it can be: ids and templates are in the JSON."""
    return Group(*_sections(report))


def _sections(report: CheckpointReport) -> Iterator[RenderableType]:
    yield Text.assemble((report.model, "bold"), f"  {report.architecture}", _proven(report.serving))
    yield Padding(_facts(report), (0, 0, 0, 2), expand=False)
    if report.image_tokens:
        yield Text("\nImage tokens (k)", style="bold")
        sizes = (f"{s.width}x{s.height}: {s.tokens}" for s in report.image_tokens)
        yield Text("  " + "   ".join(sizes))
    for example in report.examples:
        if example.prompt is not None:
            yield Text(f"\n{example.name.capitalize()}", style="bold")
            yield Padding(_conversation(example), (0, 0, 0, 2), expand=False)
    yield from _findings("Problems", "red", report.problems)
    yield from _findings("Notes", "yellow", report.notes)
    if report.not_judged:
        yield Text("\nNot judged", style="bold")
        for line in report.not_judged:
            yield Padding(Text(line), (0, 0, 0, 2), expand=False)
    if not report.problems:
        yield Text("\nNothing is wrong with it.", style="green")


def _proven(serving: Serving | None) -> tuple[str, str]:
    if serving is None:
        return "", ""
    return ("  proven", "green") if serving.proven else ("  not supported", "red")


def _facts(report: CheckpointReport) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(report):
        table.add_row(name, Text(value))  # a text: names may look like markup
    return table


def _rows(report: CheckpointReport) -> Iterator[tuple[str, str]]:
    if report.folder != report.model:
        yield "folder", report.folder
    if report.weights:
        yield "weights", _weights(report.weights)
    if report.chat_template:
        yield "chat template", report.chat_template.source
    if report.image_token:
        yield "image token", report.image_token
        yield "ends", " ".join(report.ends) or "none"
    if report.serving and report.serving.lora_target_modules:
        yield "adapters of", _list(report.serving.lora_target_modules)
    if report.training:
        yield from _training(report.training)
    if report.digest:
        parts = (f"{part} {value}" for part, value in report.digest.model_dump().items())
        yield "input digest", "\n".join(parts)


def _weights(weights: WeightFiles) -> str:
    files = "1 file" if weights.files == 1 else f"{weights.files} files"
    return ", ".join([files, f"{_short(weights.bytes)}B", *weights.dtypes])


def _training(training: Training) -> Iterator[tuple[str, str]]:
    if training.lora_parameters is not None:
        yield (
            "trained: lora",
            f"{_short(training.lora_parameters)} parameters on {training.lora_layers} layers, at "
            f"rank {training.lora_rank}",
        )
    if training.full_parameters is not None:
        parts = (f"{part} {_short(count)}" for part, count in training.full_parameters.items())
        yield "trained: full", ", ".join(parts)


def _conversation(example: Example) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    if example.prompt and example.trained_prompt and example.trained_answer:
        table.add_row("asked", _tokens(example.prompt.tokens))
        if example.trained_prompt != example.prompt:
            table.add_row("before it", _tokens(example.trained_prompt.tokens))
        table.add_row("trained", _tokens(example.trained_answer.tokens, end=example.end))
        if example.end is None:
            table.add_row("", Text("and no end", style="red"))
    return table


def _tokens(tokens: Sequence[str], end: str | None = None) -> Text:
    """Tokens one after the other; a repeated one once, with how often; the end in colour."""
    text = Text()
    last = len(tokens)
    for token, group in groupby(tokens):
        count = len(list(group))
        last -= count
        shown = "↵" if token == LINE_END else token.translate(SPACES)
        style = "green" if token == end and last == 0 else ""
        text.append(shown, style=style)
        text.append(f"×{count} " if count > 1 else " ", style="dim")
    return text


def _findings(title: str, colour: str, findings: Sequence[Finding]) -> Iterator[RenderableType]:
    if findings:
        yield Text(f"\n{title}", style=f"bold {colour}")
    for finding in findings:
        yield Padding(
            Text(f"{finding.message} {finding.remedy or ''}".strip()), (0, 0, 0, 2), expand=False
        )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _short(number: int) -> str:
    """With a unit: 7.06 G, 320 M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} "
