"""The table, the plot and the figures of all cells that were measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from trainer.experiment.cell import Cell
from trainer.experiment.plan import METHODS, SEEDS, ExperimentPlan, Method
from trainer.files import write_atomically

FIGURES = {
    "yes_no_accuracy": "yes/no accuracy",
    "hallucination_rate": "hallucination rate",
    "object_recall": "object recall",
    "well_formed": "well-formed",
    "yes_share": "share of yes",
}
"""Columns of the table, and their names for people."""

PLOTTED = tuple(FIGURES)[:4]

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
"""What stands between them in toy.md is written anew, the rest is left."""


def write(out: Path, plan: ExperimentPlan) -> None:
    """toy.json, toy.md and toy.png, of the cells below `out`."""
    cells = read(out)
    if not cells:
        return
    found = rows(cells)
    content = json.dumps({"rows": found}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(out / "toy.json", content.encode())
    write_atomically(out / "toy.md", _page(out / "toy.md", table(found, plan, out)).encode())
    plot(found, out / "toy.png")


def read(out: Path) -> list[Cell]:
    """All cells that were saved, by method in the table's order, then by seed."""
    order = list(METHODS)
    cells = [Cell.model_validate_json(p.read_bytes()) for p in (out / "cells").glob("*.json")]
    return sorted(cells, key=lambda cell: (order.index(cell.method), cell.seed))


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each method that has a cell: means over its seeds, and each with its spread, the
    sample standard deviation (None with one seed)."""
    found: list[dict[str, Any]] = []
    for name, method in METHODS.items():
        mine = [cell for cell in cells if cell.method == name]
        if not mine:
            continue
        row: dict[str, Any] = {"method": name, "label": method.label}
        for figure in FIGURES:
            values = [getattr(cell.measured, figure) for cell in mine]
            row[figure] = round(mean(values), 4)
            row[f"{figure}_spread"] = round(stdev(values), 4) if len(values) > 1 else None
        row["seeds"] = [cell.seed for cell in mine]
        row["pairs"] = [cell.pairs for cell in mine]
        row["versions"] = [cell.versions for cell in mine]
        row["seconds"] = [cell.seconds for cell in mine]
        row["settings"] = mine[0].plan.model_dump() | {"training": mine[0].training}
        found.append(row)
    return found


def table(found: Sequence[dict[str, Any]], plan: ExperimentPlan, out: Path) -> str:
    """Markdown: mean ± spread in percent, one line for each method, also for those not run."""
    by_name = {row["method"]: row for row in found}
    lines = [
        f"| method | {' | '.join(FIGURES.values())} | seeds | pairs |",
        f"| --- |{' --- |' * (len(FIGURES) + 2)}",
    ]
    for name, method in METHODS.items():
        row = by_name.get(name)
        if row is None:
            cells = ["not run"] + [""] * (len(FIGURES) + 1)
        else:
            seeds = str(len(row["seeds"])) if len(row["seeds"]) > 1 else "**one**"
            cells = [_percent(row, figure) for figure in FIGURES]
            cells += [seeds, _range(row["pairs"])]
        lines.append(f"| {method.label} (`{name}`) | {' | '.join(cells)} |")
    seeds = {row["method"]: len(row["seeds"]) for row in found}
    lacking = [method for name, method in METHODS.items() if seeds.get(name, 0) < SEEDS]
    if lacking:
        names = ", ".join(method.name for method in lacking)
        lines += ["", f"Not run, or not with all seeds: {names}. This goes on with them:"]
        lines += ["", "```", command(plan, out, lacking), "```"]
    return "\n".join(lines)


def command(plan: ExperimentPlan, out: Path, methods: Sequence[Method]) -> str:
    """What measures these methods with this plan."""
    changed = plan.model_dump(exclude_defaults=True)
    options = [f"--{name.replace('_', '-')} {value}" for name, value in changed.items()]
    options += [f"--method {method.name}" for method in methods]
    return " ".join([f"prefstream experiment toy --out {out}", *options])


def plot(found: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each figure; a dot for each method, its spread, and a line at the base."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.4 + 0.36 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(PLOTTED), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, PLOTTED, strict=True):
        for place, row in enumerate(found):
            several = len(row["seeds"]) > 1
            color = "0.35" if row["method"] == "base" else "C0" if several else "C1"
            panel.errorbar(
                100 * row[name],
                place,
                xerr=100 * (row[f"{name}_spread"] or 0),
                fmt="o",
                color=color,
                mfc=color if several else "white",
                capsize=3,
            )
        if found[0]["method"] == "base":
            panel.axvline(100 * found[0][name], color="0.7", lw=1, ls="--", zorder=0)
        panel.set_title(f"{FIGURES[name]}, %", fontsize=10)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(found)), [row["label"] for row in found], fontsize=9)
    panels[0].invert_yaxis()
    figure.supxlabel(
        "mean over seeds, bars: ± one standard deviation; hollow: one seed; dashed: the base",
        fontsize=9,
    )
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _page(path: Path, measured: str) -> str:
    """The page with the table in its place."""
    text = path.read_text() if path.is_file() else ""
    if BEGIN not in text or END not in text:
        text = f"# The toy experiment\n\n{BEGIN}\n{END}\n\n![The same as a plot](toy.png)\n"
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n{measured}\n{END}{after}"


def _percent(row: dict[str, Any], figure: str) -> str:
    spread = row[f"{figure}_spread"]
    value = f"{100 * row[figure]:.1f}"
    return value if spread is None else f"{value} ± {100 * spread:.1f}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"
