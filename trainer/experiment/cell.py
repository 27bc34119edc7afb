"""One cell: a method trained with one seed, served, and measured over POST /sample."""

import asyncio
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from service.client import AsyncClient, PrefstreamError
from service.schemas import RunSettings, Weights
from trainer.evaluation.toy import measure_toy
from trainer.experiment import pairs
from trainer.experiment.pairs import OnProgress
from trainer.experiment.plan import ExperimentPlan, Method, training
from trainer.files import write_atomically
from trainer.stream import journal

WINDOW_STEPS = 3
"""A run's window, in optimizer steps: pairs that may be made ahead of the trainer."""

SETTLE_S = 120.0
"""Longest wait for the worker to serve what the trainer published last."""

LONG_POLL_S = 5.0
LOOK_S = 0.5
"""Seconds between two looks at the trainer's journal."""


class SettingsMismatch(ValueError):
    """A cell is there that was measured with other settings."""


class CellMetrics(BaseModel):
    """Shares in [0, 1]; see `ToyMetrics`."""

    model_config = ConfigDict(extra="forbid")

    images: int
    yes_no_accuracy: float
    yes_share: float
    hallucination_rate: float
    object_recall: float
    well_formed: float


class Cell(BaseModel):
    """What is saved of a cell."""

    model_config = ConfigDict(extra="forbid")

    method: str
    seed: int
    plan: ExperimentPlan
    training: dict[str, Any]
    """The trainer's settings. Empty: the base."""
    pairs: int
    """Different pairs that it was trained on."""
    made: dict[str, float] | None
    """Of pairs made beforehand: how many of how many references, after how many iterations."""
    versions: int
    """Versions of the weights that wrote its online pairs; 0: none was made online."""
    measured: CellMetrics
    seconds: float
    """All of it on the machine as it was: pairs (where it was the first to need them), training,
    measurement."""
    finished_at: datetime

    @staticmethod
    def path(out: Path, method: str, seed: int) -> Path:
        return out / "cells" / f"{method}-{seed}.json"

    @classmethod
    def find(cls, out: Path, plan: ExperimentPlan, method: Method, seed: int) -> Self | None:
        """The cell, if it was measured before. Raises: SettingsMismatch."""
        path = cls.path(out, method.name, seed)
        if not path.is_file():
            return None
        cell = cls.model_validate_json(path.read_bytes())
        wanted = training(plan, method) if method.source else {}
        if (cell.plan, cell.training) != (plan, wanted):
            raise SettingsMismatch(
                f"{path} was measured with other settings than these. Give --out another folder, "
                "or remove the file to measure it anew."
            )
        return cell

    def save(self, out: Path) -> None:
        path = self.path(out, self.method, self.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (self.model_dump_json(indent=1) + "\n").encode())


async def run(
    client: AsyncClient,
    url: str,
    plan: ExperimentPlan,
    method: Method,
    seed: int,
    work: Path,
    on_progress: OnProgress,
) -> Cell:
    """Trains and measures, with the pairs that `pairs.offline` left in `work`.

    Raises: RuntimeError, if a job or the trainer failed.
    """
    started = time.monotonic()
    settings: dict[str, Any] = training(plan, method) if method.source else {}
    made: pairs.PairSetSummary | None = None
    used: set[str] = set()
    versions = 0
    if method.source:
        name = f"{method.name}-{seed}"
        output = work / name
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        given = settings | {"run": name, "url": url, "output": str(output), "seed": seed}
        if method.file:
            path, made = pairs.load(work, plan, method.file, seed)
            given["data"] = str(path)
        await client.put_run(name, RunSettings(window=WINDOW_STEPS * plan.batch_size))
        await _train(client, plan, method, seed, given, on_progress)
        used = {pair for _, step in journal.read(output) for pair in step}
        written = {pair.rejected_version async for pair in client.pairs(name)}
        versions = len(written)
    on_progress("measuring", 0, 1)
    measured = await measure_toy(client, plan.images, seed=seed)
    return Cell(
        method=method.name,
        seed=seed,
        plan=plan,
        training=settings,
        pairs=len(used),
        made=asdict(made) if made else None,
        versions=versions,
        measured=CellMetrics(**asdict(measured)),
        seconds=round(time.monotonic() - started, 1),
        finished_at=datetime.now(UTC),
    )


async def _train(
    client: AsyncClient,
    plan: ExperimentPlan,
    method: Method,
    seed: int,
    given: dict[str, Any],
    on_progress: OnProgress,
) -> None:
    """Runs `prefstream train` to its end, and feeds its run if its pairs are made online.

    Afterwards the worker serves what it published last. Raises: RuntimeError.
    """
    output = Path(given["output"])
    config = output / "train.toml"
    config.write_text(
        "".join(f"{name} = {json.dumps(v)}\n" for name, v in given.items() if v is not None)
    )
    before = await client.weights()
    with (output / "train.log").open("wb") as log:
        trainer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "train", "--model", "toy", "--config", str(config)),
            stdout=log,
            stderr=log,
            env=_environment(),
        )
    ended = asyncio.create_task(trainer.wait())
    helpers = [asyncio.create_task(_watch(output, plan.steps, on_progress))]
    if method.online:
        feeding = _feed(client, plan, method, seed, given["run"], before)
        helpers.append(asyncio.create_task(feeding))
    try:
        await asyncio.wait([ended, *helpers], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            for helper in helpers:
                if helper.done():
                    helper.result()  # it does not end but by an error
    finally:
        if trainer.returncode is None:
            trainer.terminate()
        for helper in helpers:
            helper.cancel()
        await asyncio.wait([ended, *helpers])
    if trainer.returncode:
        words = (output / "train.log").read_text(errors="replace").splitlines()[-10:]
        raise RuntimeError("The trainer failed:\n" + "\n".join(words))
    if method.online:
        await _cancel_open(client, given["run"])
    await _settled(client, before)


def _environment() -> dict[str, str]:
    """The trainer's: what else is set for trainers would go before its file."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFSTREAM_TRAINER_")}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


async def _watch(output: Path, steps: int, on_progress: OnProgress) -> None:
    while True:
        on_progress("training", max((step for step, _ in journal.read(output)), default=0), steps)
        await asyncio.sleep(LOOK_S)


async def _feed(
    client: AsyncClient, plan: ExperimentPlan, method: Method, seed: int, run: str, before: Weights
) -> None:
    """Feeds the run, once the worker serves what the trainer starts from."""
    old = before.newest.version if before.newest else 0
    while old and not await _serves_newer(client, old):
        pass
    assert method.source
    averaged = method.training.get("method") == "averaged"
    await pairs.feed(client, plan, method.source, seed, run, averaged=averaged)


async def _serves_newer(client: AsyncClient, old: int) -> bool:
    """Whether, within a few seconds, every worker serves a version newer than `old`."""
    now = await client.weights(settled=old + 1, wait_s=LONG_POLL_S)
    return bool(now.workers) and all(worker.weight_version > old for worker in now.workers)


async def _settled(client: AsyncClient, before: Weights) -> None:
    """Until the worker serves what the trainer published last. Raises: RuntimeError."""
    newest = (await client.weights()).newest
    if newest is None or newest == before.newest:
        raise RuntimeError("The trainer ended without publishing anything.")
    now = await client.weights(settled=newest.version, wait_s=SETTLE_S)
    if not now.workers or any(worker.weight_version != newest.version for worker in now.workers):
        reasons = [refusal.reason for refusal in now.refused if refusal.version == newest.version]
        raise RuntimeError(f"The worker does not serve version {newest.version}: {reasons}")


async def _cancel_open(client: AsyncClient, run: str) -> None:
    """What was posted and is no longer needed."""
    before: str | None = None
    while True:
        page = await client.jobs("open", before=before)
        for job in page.jobs:
            if job.run == run:
                with suppress(PrefstreamError):  # it ended by itself
                    await client.cancel(job.id)
        before = page.before
        if before is None:
            return
