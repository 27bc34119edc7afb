"""Images and texts as they come in: checked; images are stored under their hash, and none is ever
fetched."""

import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from service import images
from service.broker import Broker
from service.problems import Refusal
from service.schemas import NamespaceSettings, PromptRequest, StoredImage

LINE_BREAKS = str.maketrans("", "", "\r\n\t ")
"""`base64` without `-w0` and MIME put them in."""
HASH = re.compile(r"sha256:[0-9a-f]{64}")
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

ErrorLocation = tuple[str | int, ...]
R = TypeVar("R", bound=PromptRequest)


class Intake:
    """Takes images in, a few at a time, off the event loop."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        # Decoding is all CPU and memory: up to max_image_pixels × 4 bytes each.
        self._limiter = CapacityLimiter(2)

    @property
    def _limits(self) -> NamespaceSettings:
        return self._broker.connection.settings

    async def request(self, request: R, check_room: Callable[[], Awaitable[None]]) -> R:
        """The request with every image stored, and named by its hash. `check_room` raises where
        there is no room for it, and is asked before anything is decoded.

        Raises: Refusal.
        """
        await self._broker.settings()
        self._check_text(request)
        if len(request.images) > self._limits.max_images:
            raise Refusal(
                422,
                "too_many_images",
                f"`images` has {len(request.images)} images; at most {self._limits.max_images} "
                "are taken (setting `max_images`).",
                loc=("body", "images"),
            )
        if not request.images:
            return request
        if not all(map(HASH.fullmatch, request.images)):
            await check_room()
        refs = [
            await self._reference(image, ("body", "images", index))
            for index, image in enumerate(request.images)
        ]
        return request.model_copy(update={"images": refs})

    async def store(self, content: bytes) -> StoredImage:
        """One image from a raw body."""
        await self._broker.settings()
        info = await to_thread.run_sync(self._check, content, ("body",), limiter=self._limiter)
        return StoredImage(
            image=await self._broker.images.put(content),
            format=info.format,
            width=info.width,
            height=info.height,
            bytes=len(content),
        )

    def _check_text(self, request: PromptRequest) -> None:
        length = request.length
        if length > self._limits.max_text_chars:
            raise Refusal(
                422,
                "text_too_long",
                f"The request has {length} characters of text; at most "
                f"{self._limits.max_text_chars} are taken (setting `max_text_chars`).",
                loc=("body",),
            )

    async def _reference(self, image: str, loc: ErrorLocation) -> str:
        if image.startswith("sha256:"):
            if not HASH.fullmatch(image):
                raise Refusal(
                    422,
                    "invalid_image",
                    "An image's hash is `sha256:` and 64 lower-case hexadecimal digits.",
                    loc=loc,
                )
            return image
        if URL.match(image):
            raise Refusal(
                422,
                "image_url_refused",
                "Image URLs are never fetched. Send the bytes as a data URI or base64, or store "
                "them with POST /images and name them by their hash.",
                loc=loc,
            )
        content = await to_thread.run_sync(self._decode, image, loc, limiter=self._limiter)
        return await self._broker.images.put(content)

    def _decode(self, image: str, loc: ErrorLocation) -> bytes:
        uri = images.DATA_URI.match(image)
        if uri is None and image[:5].lower() == "data:":
            raise Refusal(
                422,
                "invalid_image",
                "A data URI must be `data:<type>;base64,<data>`.",
                loc=loc,
            )
        encoded = (image[uri.end() :] if uri else image).translate(LINE_BREAKS)
        if len(encoded) * 3 // 4 > self._limits.max_image_bytes + 2:
            raise self._too_large(len(encoded) * 3 // 4, loc)
        try:
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refusal(
                422,
                "invalid_image",
                f"Neither a data URI, nor base64, nor `sha256:…`: {error}.",
                loc=loc,
            ) from None
        self._check(content, loc)
        return content

    def _check(self, content: bytes, loc: ErrorLocation) -> images.ImageInfo:
        if len(content) > self._limits.max_image_bytes:
            raise self._too_large(len(content), loc)
        try:
            return images.check(content, self._limits.max_image_pixels)
        except images.ImageTooLarge as error:
            raise Refusal(422, "image_too_large", str(error), loc=loc) from None
        except images.BadImage as error:
            raise Refusal(422, "invalid_image", str(error), loc=loc) from None

    def _too_large(self, size: int, loc: ErrorLocation) -> Refusal:
        return Refusal(
            422,
            "image_too_large",
            f"The image has {size} bytes; at most {self._limits.max_image_bytes} are taken "
            "(setting `max_image_bytes`).",
            loc=loc,
        )
