"""A prompt with images as vLLM takes it, each image whole or spoilt in its own way."""

from collections.abc import Sequence

from vllm.inputs import TokensPrompt

from worker.bdhs.corruption import ImageCorruption
from worker.engine.decoded_image import DecodedImage
from worker.plugin.masking import IMAGE_REQUESTS, ImageRequest, Placeholder


def image_prompt(
    token_ids: Sequence[int],
    images: Sequence[DecodedImage],
    placeholders: Sequence[Placeholder],
    corruptions: Sequence[ImageCorruption | None] = (),
    *,
    drop_hidden: bool,
    share_whole: bool = True,
) -> tuple[TokensPrompt, int]:
    """The prompt, and how many tokens it has once images stand in it.

    Args:
        token_ids: with one placeholder for each image.
        placeholders: what stands for each whole image.
        corruptions: of each image; None: it is whole. Empty: all are.
        drop_hidden: an image of which nothing is left is no image of the request any more. vLLM
            takes none without a token, and only positions that count the image's grid need it.
        share_whole: a mask that hides nothing is none.
    """
    sent: list[DecodedImage] = []
    requests: list[ImageRequest] = []
    is_sent: list[bool] = []
    length = len(token_ids)
    every = zip(images, placeholders, corruptions or [None] * len(images), strict=True)
    for image, placeholder, corruption in every:
        kept = placeholder.image_tokens if corruption is None else len(corruption.kept)
        hidden = placeholder.image_tokens - kept
        length += len(placeholder.tokens) - hidden - len(placeholder.target)
        is_sent.append(not drop_hidden or hidden < len(placeholder.tokens))
        if is_sent[-1]:
            sent.append(image)
            requests.append(_request(image, corruption, leave_out_mask=share_whole and not hidden))
    prompt = TokensPrompt(prompt_token_ids=_prompt_of(token_ids, placeholders, is_sent))
    if sent:
        prompt["multi_modal_data"] = {"image": [image.image for image in sent]}
        prompt["multi_modal_uuids"] = {"image": [image.ref for image in sent]}
        prompt["mm_processor_kwargs"] = {IMAGE_REQUESTS: requests}
    return prompt, length


def _request(
    image: DecodedImage, corruption: ImageCorruption | None, *, leave_out_mask: bool
) -> ImageRequest:
    if corruption is None:
        return ImageRequest(image.ref)
    noise = None
    if corruption.noise_steps:
        assert corruption.noise_seed is not None  # it is given with the steps
        noise = (corruption.noise_steps, corruption.noise_seed)
    kept = None if leave_out_mask else tuple(corruption.kept)
    return ImageRequest(image.ref, kept, noise)


def _prompt_of(
    token_ids: Sequence[int], placeholders: Sequence[Placeholder], is_sent: Sequence[bool]
) -> list[int]:
    """The prompt without the placeholders of those images that are not sent."""
    targets = [placeholder.target for placeholder in placeholders]
    stays = iter(is_sent)
    return [token for token in token_ids if [token] not in targets or next(stays)]
