"""/images: bytes by their hash."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from service.api.dependencies import AppStateDep
from service.api.problems import RESPONSES
from service.broker import ImageGone
from service.problems import Refusal
from service.schemas import StoredImage

router = APIRouter(prefix="/images", tags=["images"], responses=RESPONSES)

SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
BODY = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"format": "binary"}}}}}


@router.post("", summary="Store one image", status_code=201, openapi_extra=BODY)
async def post_image(request: Request, app_state: AppStateDep) -> StoredImage:
    """The body is the image itself: PNG, JPEG or WEBP. Feeders that use a picture many times store
    it once, and name it by its hash."""
    return await app_state.intake.store(await request.body())


@router.get(
    "/{sha256}",
    summary="The bytes of an image",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}}},
)
async def get_image(
    sha256: Annotated[
        str,
        Path(pattern=r"^(sha256:)?[0-9a-f]{64}$", description="The image's hash, in hexadecimal."),
    ],
    app_state: AppStateDep,
) -> Response:
    try:
        content = await app_state.broker.images.get("sha256:" + sha256.removeprefix("sha256:"))
    except ImageGone as gone:
        raise Refusal(404, gone.code, str(gone)) from None
    kinds = [kind for start, kind in SIGNATURES.items() if content.startswith(start)]
    return Response(
        content,
        media_type=kinds[0] if kinds else "application/octet-stream",
        headers={
            "Cache-Control": "private, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
        },
    )
