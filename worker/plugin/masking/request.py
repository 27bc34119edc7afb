"""What a request says of each of its images, in the worker's process."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

IMAGE_REQUESTS = "prefstream_image_requests"
"""Key of vLLM's `mm_processor_kwargs`: an `ImageRequest` for each image of the prompt, in order.
Absent: all images are whole, and nothing is kept of them."""


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """How one image of a prompt is to be seen."""

    ref: str
    """What identifies the image, such as the hash of its bytes."""
    kept: Sequence[int] | None = None
    """Ascending indices of the image tokens that stay; None: all do."""
    noise: tuple[int, int] | None = None
    """Steps of the diffusion schedule, and the noise's seed; None: no noise."""
    digest: str = field(init=False)
    """Of what is done to the image; empty: nothing is."""

    def __post_init__(self) -> None:
        done = "" if self.kept is None and self.noise is None else f"{self.kept}{self.noise}"
        digest = hashlib.sha256(done.encode()).hexdigest() if done else ""
        object.__setattr__(self, "digest", digest)


def image_requests(processor_kwargs: Mapping[str, Any]) -> Sequence[ImageRequest] | None:
    """Of vLLM's `mm_processor_kwargs`, if they are ours."""
    return cast(Sequence[ImageRequest] | None, processor_kwargs.get(IMAGE_REQUESTS))


def without_image_requests(processor_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are for the model's own processor."""
    return {name: value for name, value in processor_kwargs.items() if name != IMAGE_REQUESTS}
