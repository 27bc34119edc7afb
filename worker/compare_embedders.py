"""`prefstream compare-embedders`: how ε_s carries over from one embedder to another.

Light to import, as all commands are: the service has them too, without numpy.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.commands.console import fail

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

console = Console(highlight=False)

THRESHOLDS = (0.90, 0.95, 0.97, 0.98, 0.99)
"""Of the first embedder, at which the others are asked for their own."""


def compare_embedders(
    responses: Annotated[
        Path, typer.Argument(help="`responses.jsonl` of `prefstream report bdhs`.")
    ],
    embedder: Annotated[
        list[str], typer.Option(help="sentence-transformers models, or `embedded`; two or more.")
    ],
) -> None:
    """For each ε_s of the first embedder, the one of the others that lets as many pairs pass.

    Agreement is the share of responses that both call different, or both similar.
    """
    import numpy as np

    if len(embedder) < 2:
        fail("Name two embedders or more, each with --embedder.")
    try:
        lines = [json.loads(line) for line in responses.read_text().splitlines()]
        texts = [(str(line["text"]), str(line["reference"])) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{responses} is no `responses.jsonl` of `prefstream report bdhs`: {error!r}")
    if not texts:
        fail(f"{responses} is empty.")
    scores = {name: asyncio.run(_similarities(name, texts)) for name in embedder}
    first, *others = embedder
    table = Table(f"ε_s of {first}", "differ", *(f"{n}: ε_s / agreement" for n in others))
    for threshold in THRESHOLDS:
        cells = [f"{np.mean(scores[first] < threshold):.1%}"]
        for name in others:
            own, agreement = equivalent_threshold(scores[first], scores[name], threshold)
            cells.append(f"{own:.3f} / {agreement:.1%}")
        table.add_row(f"{threshold:.2f}", *cells)
    console.print(table)
    console.print(f"{len(texts)} responses of {responses}.")


def equivalent_threshold(
    first: "NDArray[np.float64]", other: "NDArray[np.float64]", threshold: float
) -> tuple[float, float]:
    """ε_s of the other embedder that calls as many responses different, and how often they agree.

    Args:
        first, other: similarities of the same responses, float64 of shape (responses,).
        threshold: ε_s of the first.
    """
    import numpy as np

    differ = first < threshold
    own = float(np.quantile(other, differ.mean()))
    return own, float(np.mean(differ == (other < own)))


async def _similarities(name: str, texts: Sequence[tuple[str, str]]) -> "NDArray[np.float64]":
    import numpy as np

    from worker.embedder import Embedder

    try:
        embedder = Embedder(name)
    except (OSError, ValueError) as error:
        fail(f"--embedder {name}: {error}")
    try:
        found = await asyncio.gather(*(embedder.similarity(a, b) for a, b in texts))
    finally:
        embedder.close()
    return np.array(found)
