"""What a run's pairs look like: what came of its jobs, how figures are spread, which words were
put in place of which."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

from service.client import AsyncClient
from service.schemas import Distribution, Pair, Run
from service.words import words

SHOWN = 30
"""Replacements in the report, the most frequent ones."""

LONGEST = 4
"""Words of a replaced phrase, at most; longer ones are rewritten sentences."""

BAR = 30
"""Characters of the longest bar."""


@dataclass
class PairsReport:
    run: Run
    read: int = 0
    """Pairs whose words were compared."""
    replaced: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Words of the chosen side, and those in their place on the rejected one; how often."""

    @property
    def as_json(self) -> str:
        return json.dumps(
            {
                "run": self.run.name,
                "pairs": self.run.pairs,
                "outcomes": self.run.outcomes,
                "filtered": self.run.filtered,
                "distributions": {n: d.model_dump() for n, d in self.run.distributions.items()},
                "compared": self.read,
                "replaced": [
                    {"chosen": chosen, "rejected": rejected, "count": count}
                    for (chosen, rejected), count in self.replaced.most_common()
                ],
            },
            indent=1,
            ensure_ascii=False,
        )


async def collect(client: AsyncClient, name: str, limit: int) -> PairsReport:
    """Reads a run's figures and, from the oldest that is kept, up to `limit` of its pairs.

    Raises: RunNotFound.
    """
    report = PairsReport(await client.run(name))
    async for pair in client.pairs(name):
        report.replaced.update(replacements(pair))
        report.read += 1
        if report.read == limit:
            break
    return report


def replacements(pair: Pair) -> Iterator[tuple[str, str]]:
    """Words or short phrases of the chosen side, each with what stands in its place on the rejected
    one; nothing is the empty text."""
    chosen, rejected = words(pair.chosen[0].text), words(pair.rejected[0].text)
    blocks = SequenceMatcher(None, chosen, rejected, autojunk=False).get_opcodes()
    for what, start, end, other_start, other_end in blocks:
        if what == "equal":
            continue
        ours, theirs = chosen[start:end], rejected[other_start:other_end]
        if len(ours) == len(theirs):
            yield from zip(ours, theirs, strict=True)
        elif max(len(ours), len(theirs)) <= LONGEST:
            yield " ".join(ours), " ".join(theirs)


def write(report: PairsReport, out: Path) -> None:
    """`pairs.json` and `pairs.md` in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "pairs.json").write_text(report.as_json + "\n")
    (out / "pairs.md").write_text(markdown(report))


def markdown(report: PairsReport) -> str:
    run = report.run
    lines = [f"# The pairs of run {run.name}", "", f"{run.pairs} pairs."]
    lines += ["", *_counts("outcome", run.outcomes)]
    if run.filtered:
        lines += ["", *_counts("filter", run.filtered)]
    for name, distribution in run.distributions.items():
        lines += ["", f"**{name.replace('_', ' ')}**, mean {distribution.mean:.3g}", ""]
        lines += ["```", *histogram(distribution), "```"]
    lines += ["", f"What stands in place of what, in {report.read} pairs:", ""]
    lines += ["| chosen | rejected | times |", "| --- | --- | --- |"]
    lines += [
        f"| {chosen or '*nothing*'} | {rejected or '*nothing*'} | {count} |"
        for (chosen, rejected), count in report.replaced.most_common(SHOWN)
    ]
    return "\n".join(lines) + "\n"


def _counts(what: str, counts: dict[str, int]) -> list[str]:
    rows = sorted(counts.items(), key=lambda row: -row[1])
    return [f"| {what} | |", "| --- | --- |", *(f"| {name} | {n} |" for name, n in rows)]


def histogram(distribution: Distribution) -> list[str]:
    """A line for each bar, from the first that is not empty to the last."""
    bars = distribution.buckets
    full = [place for place, bar in enumerate(bars) if bar.count]
    most = max(bar.count for bar in bars)
    lines: list[str] = []
    for bar in bars[full[0] : full[-1] + 1]:
        label = "above" if bar.le is None else f"≤ {bar.le:g}"
        length = round(BAR * bar.count / most)
        lines.append(f"{label:>8} {bar.count:>7} {'█' * length}".rstrip())
    return lines
