"""Folders of checkpoints, with something changed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from service.checkpoints.report import CheckpointReport, Example, Finding

Change = Callable[[Path], object]


def edit(name: str, **values: Any) -> Change:
    """Sets these values in a JSON file; those that are None are taken out."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | values
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return change


def edit_text_model(**values: Any) -> Change:
    """Sets these values of the language model in config.json."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= values
        (folder / "config.json").write_text(json.dumps(config))

    return change


def remove(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def write(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)

    return change


def both(first: Change, second: Change) -> Change:
    def change(folder: Path) -> None:
        first(folder)
        second(folder)

    return change


def codes(findings: list[Finding]) -> Mapping[str, Finding]:
    return {finding.code: finding for finding in findings}


def example(report: CheckpointReport, name: str) -> Example:
    [found] = [example for example in report.examples if example.name == name]
    return found
