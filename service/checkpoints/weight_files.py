"""Whether all files of a checkpoint's weights are there, and whole."""

import json
from pathlib import Path
from typing import Any

from service.checkpoints.report import Finding, WeightFiles, in_a_line

PATTERNS = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth")
"""Names that weights have, the preferred ones first."""

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Of weights in several files: which tensor is in which."""

FETCH_AGAIN = "Fetch the checkpoint again; with git, `git lfs pull` brings what only has a pointer."

SHOWN = 4


def check_weight_files(folder: Path) -> tuple[WeightFiles, list[Finding]]:
    """The files, and what is wrong with them. Of safetensors the headers are read."""
    found = next((files for p in PATTERNS if (files := sorted(folder.glob(p)))), list[Path]())
    problems: list[Finding] = []
    missing = _missing(folder, {file.name for file in found})
    if missing:
        problems.append(
            Finding(
                code="weights_missing",
                message=f"{folder} lacks {_list(missing)}, which its index of weights names.",
                remedy=FETCH_AGAIN,
            )
        )
    elif not found:
        problems.append(
            Finding(
                code="weights_missing",
                message=f"{folder} has no weights: no {' and no '.join(PATTERNS)}.",
                remedy=FETCH_AGAIN,
            )
        )
    dtypes: set[str] = set()
    for file in found:
        if file.suffix == ".safetensors":
            kinds, problem = _read_header(file)
            dtypes |= kinds
            problems += problem
    size = sum(file.stat().st_size for file in found)
    return WeightFiles(files=len(found), bytes=size, dtypes=sorted(dtypes)), problems


def _missing(folder: Path, there: set[str]) -> list[str]:
    for index in INDEXES:
        if (folder / index).is_file():
            named = set(json.loads((folder / index).read_text())["weight_map"].values())
            return sorted(named - there)
    return []


def _read_header(file: Path) -> tuple[set[str], list[Finding]]:
    from safetensors import SafetensorError, safe_open

    try:
        opened: Any = safe_open(file, "numpy")
        with opened as tensors:
            return {tensors.get_slice(name).get_dtype() for name in tensors.keys()}, []  # noqa: SIM118
    except SafetensorError as error:
        return set(), [
            Finding(
                code="weights_unreadable",
                message=f"{file} is no whole file of weights: {in_a_line(error)}",
                remedy=FETCH_AGAIN,
            )
        ]


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
