"""Images as they come in: checked, then stored under their hash. Nothing is ever fetched."""

import base64
import binascii
import io
import re
from dataclasses import dataclass
from typing import Literal, TypeVar

from anyio import CapacityLimiter, to_thread
from PIL import Image

from service.broker import Broker
from service.problems import Refusal
from service.schemas import PromptRequest, StoredImage
from service.settings import Settings

FORMATS: dict[str, Literal["png", "jpeg", "webp"]] = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp"}
DATA_URI = re.compile(r"data:[^,]{0,256};base64,")
HASH = re.compile(r"sha256:[0-9a-f]{64}")
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

ErrorLocation = tuple[str | int, ...]
R = TypeVar("R", bound=PromptRequest)


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """Bytes that decode to one still image within the bounds."""

    content: bytes
    format: Literal["png", "jpeg", "webp"]
    width: int
    height: int


class Intake:
    """Takes images in, a few at a time, off the event loop."""

    def __init__(self, broker: Broker, settings: Settings) -> None:
        self._broker = broker
        self._settings = settings
        # Decoding is all CPU and memory: up to max_image_pixels × 4 bytes each.
        self._limiter = CapacityLimiter(2)

    async def request(self, request: R) -> R:
        """The request with every image stored, and named by its hash."""
        self._check_text(request)
        if len(request.images) > self._settings.max_images:
            raise Refusal(
                422,
                "too_many_images",
                f"`images` has {len(request.images)} images; at most {self._settings.max_images} "
                "are taken (PREFSTREAM_MAX_IMAGES).",
                loc=("body", "images"),
            )
        if not request.images:
            return request
        refs = [
            await self._reference(image, ("body", "images", index))
            for index, image in enumerate(request.images)
        ]
        return request.model_copy(update={"images": refs})

    async def store(self, content: bytes) -> StoredImage:
        """One image from a raw body."""
        checked = await to_thread.run_sync(self._check, content, ("body",), limiter=self._limiter)
        return StoredImage(
            image=await self._broker.images.put(checked.content),
            format=checked.format,
            width=checked.width,
            height=checked.height,
            bytes=len(checked.content),
        )

    def _check_text(self, request: PromptRequest) -> None:
        length = sum(map(len, request.texts))
        if length > self._settings.max_text_chars:
            raise Refusal(
                422,
                "text_too_long",
                f"The request has {length} characters of text; at most "
                f"{self._settings.max_text_chars} are taken (PREFSTREAM_MAX_TEXT_CHARS).",
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
        checked = await to_thread.run_sync(self._decode, image, loc, limiter=self._limiter)
        return await self._broker.images.put(checked.content)

    def _decode(self, image: str, loc: ErrorLocation) -> CheckedImage:
        uri = DATA_URI.match(image)
        if uri is None and image.startswith("data:"):
            raise Refusal(
                422,
                "invalid_image",
                "A data URI must be `data:<type>;base64,<data>`.",
                loc=loc,
            )
        encoded = image[uri.end() :] if uri else image
        if len(encoded) * 3 // 4 > self._settings.max_image_bytes + 2:
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
        return self._check(content, loc)

    def _check(self, content: bytes, loc: ErrorLocation) -> CheckedImage:
        if len(content) > self._settings.max_image_bytes:
            raise self._too_large(len(content), loc)
        try:
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
                image_format, (width, height) = FORMATS[str(image.format)], image.size
                frames = getattr(image, "n_frames", 1)
                if width * height <= self._settings.max_image_pixels and frames == 1:
                    image.load()
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise Refusal(422, "image_too_large", f"{error}", loc=loc) from None
        except Image.UnidentifiedImageError:
            raise Refusal(
                422,
                "invalid_image",
                f"These {len(content)} bytes are no PNG, JPEG or WEBP image.",
                loc=loc,
            ) from None
        except Exception as error:
            # Whatever Pillow raises here, and it raises many things, is about these bytes.
            raise Refusal(
                422,
                "invalid_image",
                f"These {len(content)} bytes do not decode as a PNG, JPEG or WEBP image: "
                f"{str(error) or type(error).__name__}.",
                loc=loc,
            ) from None
        if width * height > self._settings.max_image_pixels:
            raise Refusal(
                422,
                "image_too_large",
                f"The image has {width}×{height} = {width * height} pixels; at most "
                f"{self._settings.max_image_pixels} are taken (PREFSTREAM_MAX_IMAGE_PIXELS).",
                loc=loc,
            )
        if frames != 1:
            raise Refusal(
                422,
                "invalid_image",
                f"The image is animated ({frames} frames). Send one still image.",
                loc=loc,
            )
        return CheckedImage(content, image_format, width, height)

    def _too_large(self, size: int, loc: ErrorLocation) -> Refusal:
        return Refusal(
            422,
            "image_too_large",
            f"The image has {size} bytes; at most {self._settings.max_image_bytes} are taken "
            "(PREFSTREAM_MAX_IMAGE_BYTES).",
            loc=loc,
        )
