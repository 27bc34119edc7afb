"""What an export has counted: for its card, and for the summary of the command."""

import json
from collections.abc import Iterable
from math import inf

from pydantic import BaseModel

from service.pair_figures import EDGES, bucket, pair_figures
from service.schemas import Bucket, Distribution, Pair

VALUES = 12
"""Of a setting, or names of a data set, that are told apart; what comes later is `OTHER`."""
OTHER = "other values"

Counts = dict[str, int]


class Histogram(BaseModel):
    """Of a figure."""

    sum: float = 0
    bars: list[int]
    """As `EDGES` has them."""


class Tally(BaseModel):
    """Of all pairs of the run's log that were read."""

    read: int = 0
    written: int = 0
    """Pairs whose rows are in the shards."""
    rows: int = 0
    filtered: Counts = {}
    """Left out by `--where`: pairs beyond each filter. One pair may be beyond several."""
    left_out: Counts = {}
    """Left out because the format, or a picture that is gone, allows no row; by reason."""
    methods: Counts = {}
    versions: Counts = {}
    """By the version of the weights that wrote the rejected side."""
    origins: Counts = {}
    """By the data set that the metadata name."""
    settings: dict[str, Counts] = {}
    """By the values of each setting of the requests, as JSON."""
    figures: dict[str, Histogram] = {}
    filtered_pairs: int = 0

    def filter(self, names: Iterable[str]) -> None:
        """A pair lies beyond these filters."""
        self.filtered_pairs += 1
        for name in names:
            _count(self.filtered, name)

    def leave_out(self, reason: str) -> None:
        _count(self.left_out, reason)

    def write(self, pair: Pair, rows: int) -> None:
        """A pair is in the shards, as so many rows."""
        self.written += 1
        self.rows += rows
        _count(self.methods, pair.method)
        version = pair.rejected_version
        _count(self.versions, "of a data set" if version is None else str(version))
        if isinstance(origin := pair.metadata.get("dataset"), str):
            _count(self.origins, origin, VALUES)
        for name, value in pair.settings.items():
            found = self.settings.setdefault(name, {})
            _count(found, json.dumps(value, ensure_ascii=False)[:80], VALUES)
        for name, value in pair_figures(pair).items():
            bars = [0] * (len(EDGES[name]) + 1)
            histogram = self.figures.setdefault(name, Histogram(bars=bars))
            histogram.sum += value
            histogram.bars[bucket(name, value)] += 1

    @property
    def distributions(self) -> dict[str, Distribution]:
        """Of the figures of the pairs that were written."""
        return {
            name: Distribution(
                count=sum(figure.bars),
                mean=figure.sum / sum(figure.bars),
                buckets=[
                    Bucket(le=le, count=count)
                    for le, count in zip((*EDGES[name], None), figure.bars, strict=True)
                ],
            )
            for name, figure in sorted(self.figures.items())
        }


def _count(counts: Counts, name: str, most: float = inf) -> None:
    """`most`: names that are told apart."""
    known = name if name in counts or len(counts) < most else OTHER
    counts[known] = counts.get(known, 0) + 1
