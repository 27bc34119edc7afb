"""`prefstream experiment toy`: every method on the shapes world, cell by cell.

Each cell trains from the shipped biased base through the real service, worker and trainer, and is
saved when it is measured; the same command goes on with those that are missing.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from service import logs
from service.client import AsyncClient
from service.commands.console import fail, progress_bars
from service.commands.local_stack import LocalStack, LocalStackError, free_port
from trainer.experiment import pairs, report
from trainer.experiment.cell import Cell, SettingsMismatch, run
from trainer.experiment.pairs import OnProgress
from trainer.experiment.plan import METHODS, SEEDS, ExperimentPlan, Method, Source

TIMEOUT_S = 300.0
"""Longest wait for room in a run's window."""

console = Console(highlight=False)

Job = tuple[Method, int]
"""A cell that is to be measured: method and seed."""


def experiment(
    world: Annotated[Literal["toy"], typer.Argument(help="Where: the shapes world.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the cells, the table and the plot; it resumes there.")
    ] = Path("experiment-out"),
    method: Annotated[
        list[str] | None, typer.Option(help="Only this method; may be given several times.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Only this seed; may be given several times.", min=0)
    ] = None,
    references: Annotated[int | None, typer.Option(help="Questions to make pairs from.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    images: Annotated[int | None, typer.Option(help="Held-out scenes to measure on.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the adapters.")] = None,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Measure nothing; write table and plot anew.")
    ] = False,
) -> None:
    """Compare the paper's methods on the toy policy; leaves a table, a plot and the figures."""
    given = {
        "references": references,
        "steps": steps,
        "images": images,
        "learning_rate": learning_rate,
    }
    logs.configure()
    try:
        plan = ExperimentPlan(**{name: value for name, value in given.items() if value is not None})
        jobs = missing(out, plan, chosen(method, seed))
        if jobs and not only_report:
            _measure(out, plan, jobs)
        report.write(out, plan)
    except ValidationError as error:
        fail("\n".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))
    except (LocalStackError, SettingsMismatch, RuntimeError, ValueError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Interrupted. Finished cells are saved; the same command goes on.")
    console.print(f"Table: [bold]{out / 'toy.md'}[/bold], plot: [bold]{out / 'toy.png'}[/bold]")


def chosen(methods: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Job]:
    """Raises: ValueError, naming a method that there is not."""
    if unknown := set(methods or ()) - METHODS.keys():
        raise ValueError(
            f"There is no method {', '.join(sorted(unknown))}. There are: {', '.join(METHODS)}."
        )
    return [
        (method, seed)
        for name, method in METHODS.items()
        for seed in (seeds or range(SEEDS))
        if not methods or name in methods
    ]


def missing(out: Path, plan: ExperimentPlan, jobs: Sequence[Job]) -> list[Job]:
    """Raises: SettingsMismatch, if a cell is there that was measured with other settings."""
    return [(method, seed) for method, seed in jobs if not Cell.find(out, plan, method, seed)]


def _measure(out: Path, plan: ExperimentPlan, jobs: Sequence[Job]) -> None:
    """All of it in one stack, except that full weights change the base of those that follow."""
    together = [job for job in jobs if not job[0].full]
    for part in [together] * bool(together) + [[job] for job in jobs if job[0].full]:
        work = out / "work"
        shutil.rmtree(work / "stack", ignore_errors=True)
        stack = LocalStack(
            model="toy",
            embedder="embedded",
            host="127.0.0.1",
            port=free_port(),
            data=work / "stack",
        )
        with stack:
            stack.run(_cells(stack.url, out, plan, part, work))


async def _cells(
    url: str, out: Path, plan: ExperimentPlan, jobs: Sequence[Job], work: Path
) -> None:
    async with AsyncClient(url, retry_for_s=TIMEOUT_S) as client:
        with progress_bars(console) as progress:
            bars: dict[str, Any] = {}

            def telling(title: str) -> OnProgress:
                def on_progress(what: str, done: int, of: int) -> None:
                    if title not in bars:
                        bars[title] = progress.add_task(title, total=of)
                    progress.update(
                        bars[title], description=f"{title}: {what}", completed=done, total=of
                    )

                return on_progress

            # What the base makes is made first: later, the worker serves what was trained.
            files: set[tuple[Source, int]] = {(m.file, s) for m, s in jobs if m.file}
            for source, seed in sorted(files):
                if not pairs.is_made(work, plan, source, seed):
                    title = f"pairs, seed {seed}"
                    await pairs.make(client, plan, source, seed, work, telling(title))
            for number, (method, seed) in enumerate(jobs, 1):
                title = f"[{number}/{len(jobs)}] {method.name}, seed {seed}"
                cell = await run(client, url, plan, method, seed, work, telling(title))
                cell.save(out)
                report.write(out, plan)
                m = cell.measured
                progress.console.print(
                    f"{title}: yes/no {m.yes_no_accuracy:.3f}, hallucination "
                    f"{m.hallucination_rate:.3f}, recall {m.object_recall:.3f}, well-formed "
                    f"{m.well_formed:.3f} ({cell.seconds:.0f} s)"
                )
