"""What the vision tower and the projector made of an image, kept for its next mask.

BDHS shows one image under many masks, and the tower's work is the same for all of them. vLLM keeps
an image's embeddings by everything that is in the request, the mask included, so it would run the
tower once a mask.

Embeddings depend on the image and on the weights. Adapters carry the language model alone and
change nothing here; whatever loads other weights must `clear`.
"""

from collections.abc import Callable, Sequence

import torch
from cachetools import LRUCache

GIB = 2**30


class FeatureCache:
    """Image embeddings by image, in the host's memory, the least recently used thrown out first.

    In the host's memory, because a mask keeps few rows: only those go back to the device. With
    tensor parallelism every rank keeps its own, and all ranks keep the same.
    """

    def __init__(self, gib: float):
        """`gib`: bound on all embeddings together, in GiB. 0 keeps nothing."""
        self._rows: LRUCache[bytes, torch.Tensor] = LRUCache(
            int(gib * GIB), getsizeof=lambda rows: rows.nbytes
        )
        self.computed = 0
        """Images that the tower has run for."""

    def clear(self) -> None:
        """Forget all: the weights are others."""
        self._rows.clear()

    def embed(
        self,
        keys: Sequence[bytes | None],
        masks: Sequence[torch.Tensor],
        compute: Callable[[list[int]], Sequence[torch.Tensor]],
        device: torch.device,
    ) -> list[torch.Tensor]:
        """The rows that stay of each image, each (kept tokens, hidden size), on the device.

        Args:
            keys: what identifies each image; None where it shall not be kept.
            masks: bool of shape (k,) for each image, on the CPU.
            compute: all rows of the images at these places, each (k, hidden size).
        """
        found: dict[int, torch.Tensor] = {}
        missing: dict[bytes | int, list[int]] = {}
        for place, key in enumerate(keys):
            if key is not None and (rows := self._rows.get(key)) is not None:
                found[place] = rows
            else:
                missing.setdefault(place if key is None else key, []).append(place)
        if missing:
            computed = compute([places[0] for places in missing.values()])
            self.computed += len(computed)
            for (key, places), rows in zip(missing.items(), computed, strict=True):
                found.update(dict.fromkeys(places, rows))
                if isinstance(key, bytes) and rows.nbytes <= self._rows.maxsize:
                    self._rows[key] = rows.to("cpu", copy=True)
        return [_kept_rows(found[place], mask).to(device) for place, mask in enumerate(masks)]


def _kept_rows(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return rows[mask.nonzero().squeeze(1).to(rows.device)]
