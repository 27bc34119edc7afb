"""How soon BDHS finds a response that differs in meaning (the paper's Figure 10).

Every variant makes a rejected response for each example, through POST /bdhs. The traces hold the
similarity of every iteration, and the curve is the share of pairs that were below ε_s by then.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.client import AsyncClient, image_data
from service.schemas import BdhsRequest, BdhsResult
from service.web.page import ShownPair, render_pairs
from trainer.data import Example
from trainer.data.images import load_image

IN_FLIGHT = 32
"""Jobs posted and not yet ended."""

SHOWN = 4
"""Pairs of each variant on the page of examples."""


@dataclass(frozen=True)
class Variant:
    """A way to spoil the view of the image."""

    name: str
    settings: dict[str, Any]


VARIANTS = (
    Variant("ρ_th 0", {"rho": 0.0}),
    Variant("ρ_th 0.98", {"rho": 0.98}),
    Variant("ρ_th 0.99", {"rho": 0.99}),
    Variant("ρ_th 1", {"rho": 1.0}),
    Variant("noise 300", {"corruption": "noise", "noise_steps": 300}),
    Variant("noise 500", {"corruption": "noise", "noise_steps": 500}),
    Variant("answer, ρ_th 1", {"guidance": "answer", "rho": 1.0}),
)
"""Those of the paper's figure, and the completion of half the answer without the picture."""


@dataclass(frozen=True)
class VariantResults:
    """What a variant made of all examples."""

    variant: Variant
    threshold: float
    """ε_s."""
    max_iterations: int
    results: list[BdhsResult]
    references: list[str]
    """What each was made of."""

    @property
    def similarities(self) -> list[list[float]]:
        """For each reference, of each iteration that it took."""
        return [[i.similarity for i in r.trace.iterations] for r in self.results if r.trace]

    @property
    def curve(self) -> list[float]:
        """Share of answers that differ in meaning by iteration 1, 2, … N."""
        taken = self.similarities
        return [
            sum(min(rounds[:number]) < self.threshold for rounds in taken) / len(taken)
            for number in range(1, self.max_iterations + 1)
        ]

    @property
    def row(self) -> dict[str, Any]:
        """The variant's row of `bdhs.json`."""
        taken = self.similarities
        first = sorted(rounds[0] for rounds in taken)
        kept = [
            len(image.kept)
            for result in self.results
            if result.trace
            for iteration in result.trace.iterations
            for image in iteration.images
        ]
        return {
            "variant": self.variant.name,
            "settings": self.variant.settings,
            "references": len(taken),
            "pairs": sum(len(result.pairs) for result in self.results),
            "differ_by_iteration": self.curve,
            "iterations": sum(map(len, taken)) / len(taken),
            "median_similarity_of_the_first": first[len(first) // 2],
            "tokens_kept": sum(kept) / len(kept),
        }


async def make(
    client: AsyncClient,
    variant: Variant,
    examples: Sequence[Example],
    settings: dict[str, Any],
    on_pair: Callable[[], None] = lambda: None,
) -> VariantResults:
    """Runs a variant over the examples.

    Raises: RuntimeError, if a job did not succeed; PrefstreamError.
    """

    def request(number: int, example: Example) -> BdhsRequest:
        return BdhsRequest.model_validate(
            {
                "messages": example.messages,
                "images": [image_data(load_image(image)) for image in example.images],
                "reference": example.chosen,
                "seed": number,
                "metadata": {"variant": variant.name, "example": example.key},
                **settings,
                **variant.settings,
            }
        )

    results: dict[int, BdhsResult] = {}
    requests = (request(number, example) for number, example in enumerate(examples))
    async for number, job in client.map(requests, in_flight=IN_FLIGHT):
        on_pair()
        if not isinstance(job.result, BdhsResult):
            place = examples[number].place
            raise RuntimeError(f"{place}: job {job.id} {job.status}: {job.error}")
        results[number] = job.result
    asked = BdhsRequest.model_fields
    return VariantResults(
        variant,
        settings.get("similarity_threshold", asked["similarity_threshold"].default),
        settings.get("max_iterations", asked["max_iterations"].default),
        [results[number] for number in range(len(examples))],
        [example.chosen for example in examples],
    )


async def show(client: AsyncClient, found: Sequence[VariantResults]) -> str:
    """The page of example pairs, some of each variant."""
    shown = [
        ShownPair(
            pair=pair,
            images=[await client.image(image) for image in pair.images],
            trace=result.trace,
        )
        for made in found
        for result in [result for result in made.results if result.pairs][:SHOWN]
        for pair in result.pairs
    ]
    summary = [(made.variant.name, f"{made.curve[0]:.1%} → {made.curve[-1]:.1%}") for made in found]
    return render_pairs(shown, title="BDHS by variant", summary=summary)


def write(out: Path, found: Sequence[VariantResults], about: str, page: str) -> None:
    """`bdhs.json`, `bdhs.png`, `bdhs.md`, `examples.html` and `responses.jsonl` in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [made.row for made in found]
    (out / "bdhs.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    (out / "bdhs.md").write_text(f"# BDHS by iteration\n\n{about}\n\n{table(found)}\n")
    plot(found, out / "bdhs.png")
    with (out / "responses.jsonl").open("w") as lines:
        for line in responses(found):
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    (out / "examples.html").write_text(page)


def table(found: Sequence[VariantResults]) -> str:
    """The curves as Markdown."""
    rounds = max(made.max_iterations for made in found)
    head = ["variant", *(f"by {n}" for n in range(1, rounds + 1)), "iterations", "tokens kept"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for made in found:
        row = made.row
        shares = [f"{share:.1%}" for share in made.curve]
        cells = [row["variant"], *shares, f"{row['iterations']:.2f}", f"{row['tokens_kept']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def responses(found: Sequence[VariantResults]) -> list[dict[str, Any]]:
    """Every response that was compared, for `prefstream compare-embedders`."""
    return [
        {
            "variant": made.variant.name,
            "iteration": number,
            "reference": reference,
            "text": iteration.text,
            "similarity": iteration.similarity,
        }
        for made in found
        for result, reference in zip(made.results, made.references, strict=True)
        if result.trace
        for number, iteration in enumerate(result.trace.iterations, start=1)
    ]


def plot(found: Sequence[VariantResults], path: Path) -> None:
    """The curves; the last iteration, which is unguided and taken as it is, apart."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for made in found:
        noise = made.variant.settings.get("corruption") == "noise"
        numbers = range(1, made.max_iterations + 1)
        shares = [100 * share for share in made.curve]
        axes.plot(numbers, shares, "s--" if noise else "o-", label=made.variant.name)
    last = max(made.max_iterations for made in found)
    axes.axvspan(last - 0.5, last + 0.5, color="0.93", zorder=0)
    axes.text(last, 2, "unguided", ha="center", fontsize=9, color="0.4")
    axes.set_xticks(range(1, last + 1))
    axes.set_xlim(0.7, last + 0.5)
    axes.set_ylim(0, 102)
    axes.set_xlabel("iteration")
    axes.set_ylabel(f"pairs that differ in meaning by then, %  (ε_s {found[0].threshold:g})")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=120, metadata={"Software": None})
