"""A run as a data set of PyTorch's: for a training loop that is not ours."""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache
from typing import Any

import structlog
from torch.utils.data import IterableDataset

from service.client import Client, ImageGone
from service.client.leases import LeasedBatch
from service.images import decode_rgb
from trainer.export.formats.columns import messages

log = structlog.get_logger()

IMAGES_CACHED = 128
"""Images that are kept; pairs about one image tend to come together."""


class RunDataset(IterableDataset[dict[str, Any]]):
    """Pairs of a run as they are made, until `idle_s` pass without one.

    Each row is a dict:

    - `prompt`, `chosen`, `rejected`: turns, as TRL's vision rows have them. Content is a list of
      parts, and `{"type": "image"}` stands where the next of `images` belongs.
    - `images`: `PIL.Image` in RGB, upright.
    - `pair_id`, `method`, and `staleness`: versions that the pair lags behind (None: not made by
      the policy).
    - `receipt`: what `ack` takes.

    A row that is not acknowledged is delivered again: after `lease_s` without its reader, which
    renews the lease while it lives. Each worker of a `DataLoader` reads with a connection and
    leases of its own, so that no row comes twice; and `ack` is for the process that trains.
    """

    def __init__(
        self,
        run: str,
        *,
        url: str,
        api_key: str | None = None,
        namespace: str | None = None,
        group: str = "trainer",
        size: int = 8,
        lease_s: float = 60.0,
        idle_s: float = float("inf"),
    ) -> None:
        """`url`, `api_key` and `namespace` as of `Client`; `size`: pairs leased together."""
        super().__init__()
        self._run = run
        self._connection = {"url": url, "api_key": api_key, "namespace": namespace}
        self._leasing = {"group": group, "size": size, "lease_s": lease_s, "idle_s": idle_s}
        self._acks: Client | None = None
        self._done: defaultdict[str, set[str]] = defaultdict(set)
        """Receipts by lease, of leases of which some are missing."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._connect() as client:
            image = lru_cache(maxsize=IMAGES_CACHED)(lambda ref: decode_rgb(client.image(ref)))
            for leased in client.batches(self._run, min_size=1, **self._leasing):
                rows = list(_rows(leased, image))
                if not rows:
                    leased.ack()
                for number, row in enumerate(rows):
                    yield row | {"receipt": f"{leased.batch.lease} {number} of {len(rows)}"}

    def ack(self, receipts: Iterable[str]) -> None:
        """What these rows taught is safe. A lease ends when all its rows are acknowledged; until
        then the service counts none of them.

        Raises: LeaseLost (rows of it are delivered again), LogChanged.
        """
        self._acks = self._acks or self._connect()
        for receipt in receipts:
            lease, _, _, count = receipt.rsplit(" ", 3)
            self._done[lease].add(receipt)
            if len(self._done[lease]) == int(count):
                del self._done[lease]
                self._acks.ack(self._run, lease)

    def close(self) -> None:
        """Ends the connection that `ack` opened."""
        if self._acks is not None:
            self._acks.close()
            self._acks = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_acks": None}

    def _connect(self) -> Client:
        return Client(**self._connection)  # pyright: ignore[reportArgumentType]


def _rows(leased: LeasedBatch, image: Any) -> Generator[dict[str, Any]]:
    """Of the pairs whose images are still stored."""
    for pair, delivery in zip(leased.pairs, leased.deliveries, strict=True):
        try:
            images = [image(ref) for ref in pair.images]
        except ImageGone as gone:
            log.warning("pair left out", pair=pair.pair_id, reason=gone.problem.detail)
            continue
        yield {
            "prompt": messages(pair.prompt),
            "chosen": messages(pair.chosen),
            "rejected": messages(pair.rejected),
            "images": images,
            "pair_id": pair.pair_id,
            "method": pair.method,
            "staleness": delivery.staleness,
        }
