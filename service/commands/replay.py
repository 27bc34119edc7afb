"""`prefstream replay`: makes a pair again, and shows any difference."""

from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from service.client import Client, JobNotFound
from service.commands.console import DEFAULT_URL, Namespace, Url, connect, fail
from service.schemas import (
    BdhsRequest,
    BdhsResult,
    BdhsTrace,
    IterationTrace,
    Job,
    Message,
    Outcome,
    Pair,
)

console = Console(highlight=False)


def replay(
    pair_id: str,
    run: Annotated[
        str | None, typer.Option(help="Look in this run's log, when the job's result has expired.")
    ] = None,
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
) -> None:
    """Make a BDHS pair again, on the weights that wrote it. Exit status 1: it came out otherwise.

    Needs the version of the weights in the store. On another engine build, or beside other work,
    rounding may differ, and with it a token.
    """
    with connect(url, namespace) as client:
        pair, trace = _find(client, pair_id, run)
        try:
            request = replay_request(pair, trace)
        except (ValueError, ValidationError) as error:
            fail(f"Pair {pair_id} cannot be made again: {error}")
        job = client.wait(client.bdhs(request).id)
    if job.error is not None and job.error.code == "version_gone":
        fail(f"Pair {pair_id} cannot be made again: {job.error.message}")
    if not isinstance(job.result, BdhsResult):
        reason = job.error.message if job.error else job.status
        fail(f"The job that makes it again did not succeed: {reason}")
    found = differences(pair, trace, job.result)
    if not found:
        version = pair.rejected_version
        console.print(
            f"The same again: seed {pair.seed}, weights version {version}, {_checked(trace)}."
        )
        return
    table = Table("", "then", "now")
    for row in found:
        table.add_row(*row)
    console.print(table)
    raise typer.Exit(1)


def replay_request(pair: Pair, trace: BdhsTrace | None) -> BdhsRequest:
    """The request that makes the pair again.

    Raises: ValueError, with the reason why there is none.
    """
    if pair.method in ("online", "offline"):
        raise ValueError(f"it is of method {pair.method}, and replay is for BDHS")
    if pair.seed is None or not pair.settings:
        raise ValueError("it does not say its seed and settings")
    versions = {
        span.version
        for iteration in (trace.iterations if trace else ())
        for sentence in iteration.sentences
        for span in sentence.weight_versions
    }
    if len(versions) > 1:
        names = ", ".join(map(str, sorted(versions)))
        raise ValueError(f"the weights changed while it was made (versions {names})")
    return BdhsRequest.model_validate(
        {
            "messages": pair.prompt,
            "images": pair.images,
            "reference": text_of(pair.chosen),
            "seed": pair.seed,
            "weight_version": pair.rejected_version,
            **pair.settings,
        }
    )


def differences(pair: Pair, trace: BdhsTrace | None, now: BdhsResult) -> list[tuple[str, str, str]]:
    """What came out otherwise: what, then, now. Empty: nothing."""
    found: list[tuple[str, str, str]] = []

    def compare(what: str, before: object, after: object) -> None:
        if before != after:
            found.append((what, str(before), str(after)))

    if not now.pairs:
        return [("outcome", Outcome.pair, str(now.outcome))]
    [pair_now] = now.pairs
    if pair.input_digest is not None:
        compare("inputs", pair.input_digest, pair_now.input_digest)
    compare("rejected", text_of(pair.rejected), text_of(pair_now.rejected))
    compare("spans", _spans(pair), _spans(pair_now))
    compare("iterations", pair.iterations, pair_now.iterations)
    compare("similarity", _rounded(pair.similarity), _rounded(pair_now.similarity))
    if trace is not None and now.trace is not None:
        rounds = zip(trace.iterations, now.trace.iterations, strict=False)
        for number, (before, after) in enumerate(rounds, start=1):
            images = zip(before.images, after.images, strict=False)
            for place, (image_before, image_after) in enumerate(images):
                image = f"iteration {number}, image {place}: "
                compare(image + "tokens kept", image_before.kept, image_after.kept)
                compare(image + "noise seed", image_before.noise_seed, image_after.noise_seed)
            compare(f"iteration {number}: cuts", _cuts(before), _cuts(after))
            compare(f"iteration {number}: text", before.text, after.text)
    return found


def text_of(side: list[Message]) -> str:
    """The text of a pair's side."""
    return "".join(message.text for message in side)


def _find(client: Client, pair_id: str, run: str | None) -> tuple[Pair, BdhsTrace | None]:
    try:
        job: Job | None = client.job(pair_id)
    except JobNotFound:
        job = None
    if job is not None and isinstance(job.result, BdhsResult):
        if not job.result.pairs:
            fail(f"Job {pair_id} made no pair: its outcome is {job.result.outcome}.")
        return job.result.pairs[0], job.result.trace
    if run is None:
        fail(
            f"There is no result of a BDHS job {pair_id}: it expired, or never was. If its pair is "
            "in a run's log, name the run with --run."
        )
    found = next((pair for pair in client.pairs(run) if pair.pair_id == pair_id), None)
    if found is None:
        fail(f"There is no pair {pair_id} in the log of the run {run!r}.")
    return found, None


def _checked(trace: BdhsTrace | None) -> str:
    return "its text and spans" if trace is None else "its text, spans and every draw"


def _spans(pair: Pair) -> list[tuple[int, int]]:
    return [(span.start, span.end) for span in pair.rejected_spans]


def _cuts(iteration: IterationTrace) -> list[tuple[str, bool, int]]:
    return [(s.prefix, s.swapped, s.seed) for s in iteration.sentences]


def _rounded(similarity: float | None) -> float | None:
    return None if similarity is None else round(similarity, 4)
