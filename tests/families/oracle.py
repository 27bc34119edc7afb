"""transformers as the oracle of what each family writes of images under masks: greedy, float32.

It is shown the whole sequence under an attention mask with zeros at hidden image tokens. With
M-RoPE each token keeps the position that it has in the whole sequence; in all other families
positions are a running count of what is shown, as `generate` has it.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from PIL.Image import Image
from transformers import AutoModelForImageTextToText

from service.checkpoints.input_processor import load_input_processor
from service.checkpoints.settings import InputSettings
from tests.families.adapters import OURS, PUBLISHED, oracle_checkpoint, rename_tensors
from tests.families.checkpoints.internvl import SIDE, TILE_TOKENS, TILES
from tests.families.family import Family
from tests.families.written import Written
from worker.bdhs.noise import noise_scales

NEW_TOKENS = 16

NEVER = -1e9
"""Added to the logits of what must not be written."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image as the model sees it."""

    image: Image
    kept: Sequence[int] | None = None
    """Indices of the image tokens that are visible; null: all."""
    noise_steps: int = 0
    """Steps of the diffusion schedule that the pixels have gone through."""
    noise_seed: int = 0


@dataclass
class Inputs:
    """One sequence; all tensors but the pixels are of shape (1, tokens), positions of M-RoPE (3, 1,
    tokens)."""

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    types: dict[str, torch.Tensor]
    pixels: dict[str, torch.Tensor]
    offset: int
    """What positions behind the prompt are ahead of the number of tokens, with M-RoPE."""


class Oracle:
    """A family's checkpoint in transformers, perhaps with an adapter in peft."""

    def __init__(self, family: Family, checkpoint: Path, adapter: Path | None = None) -> None:
        self.family = family
        folder = oracle_checkpoint(family, checkpoint)
        auto: Any = AutoModelForImageTextToText
        model = auto.from_pretrained(folder, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, self._readable(adapter))
        self.model: Any = model.eval()
        self._whole: Any = model.get_base_model() if adapter else model
        self.inputs_of = load_input_processor(
            str(checkpoint), InputSettings(), trust_remote_code=family.trust_remote_code
        )
        self.renderer = self.inputs_of.renderer
        tokenizer = self.renderer.tokenizer
        self.image_id: int = tokenizer.convert_tokens_to_ids(family.image_token)
        config = self.model.config
        media = {getattr(config, f"{name}_token_id", None) for name in ("audio", "video")}
        self.suppressed = [self.image_id, *(media & set(tokenizer.get_vocab().values()))]
        """What is never written: a random model may write the token of an image's features, or a
        sound's, and none belong to it; transformers then reads another token. Whoever is compared
        must leave them out, too (a bias of their logits)."""

    def _readable(self, adapter: Path) -> Path:
        """An adapter by the oracle's names."""
        if self.family.oracle == self.family.name:
            return adapter
        folder = adapter.parent / f"{adapter.name}-oracle"
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
        rename_tensors(folder, PUBLISHED, OURS)
        return folder

    def image_tokens(self, image: Image) -> int:
        """k."""
        [tokens], _ = self._process([image])
        return tokens.count(self.image_id)

    def generate(
        self,
        text: str,
        images: Sequence[Shown] = (),
        after: Sequence[int] = (),
        new_tokens: int = NEW_TOKENS,
    ) -> Written:
        """What it writes, greedily, once it has written `after`.

        Args:
            text: a conversation as the checkpoint's template renders it, the turn opened.
            images: as many as placeholders.
        """
        inputs = self._continued(self.inputs(text, images), after)
        written = Written([], [])
        bias = torch.zeros(self.model.config.get_text_config().vocab_size)
        bias[self.suppressed] = NEVER
        while len(written.token_ids) < new_tokens:
            logits = self._forward(inputs)[-1]
            token = int((logits + bias).argmax())
            written.token_ids.append(token)
            written.logprobs.append(torch.log_softmax(logits, -1)[token].item())
            if token in self.renderer.end_token_ids:
                break
            inputs = self._continued(inputs, [token])
        return written

    def logits(
        self,
        text: str,
        images: Sequence[Shown],
        answer: Sequence[int],
        *,
        close_gap: bool = False,
    ) -> torch.Tensor:
        """Before each token of an answer, float32 of shape (len(answer), vocabulary).

        Args:
            close_gap: with positions that are a running count, also with M-RoPE: what a model
                would make of the shorter sequence by itself, which is wrong.
        """
        inputs = self._continued(self.inputs(text, images), answer)
        if close_gap:
            inputs.positions = _running(inputs.mask).expand_as(inputs.positions)
        return self._forward(inputs)[-len(answer) - 1 : -1]

    def logprobs(self, text: str, images: Sequence[Shown], answer: Sequence[int]) -> list[float]:
        """Of each token of an answer that is given."""
        scores = torch.log_softmax(self.logits(text, images, answer), -1)
        return [row[token].item() for row, token in zip(scores, answer, strict=True)]

    def inputs(self, text: str, images: Sequence[Shown]) -> Inputs:
        """What the model is shown of a conversation."""
        tokens, pixels = self._process([shown.image for shown in images])
        ids = self.inputs_of.with_images(self.renderer.tokenize(text)[0], iter(tokens))
        mask = torch.ones(1, len(ids), dtype=torch.long)
        place = iter([i for i, token in enumerate(ids) if token == self.image_id])
        for shown, of_image in zip(images, tokens, strict=True):
            places = [next(place) for _ in range(of_image.count(self.image_id))]
            if shown.kept is not None:
                mask[0, [p for i, p in enumerate(places) if i not in set(shown.kept)]] = 0
        types = {
            name: torch.tensor(found) * (0 if self.family.causal_oracle else 1)
            for name, found in self.inputs_of.token_types([ids]).items()
        }
        self._add_noise(pixels, images)
        input_ids = torch.tensor([ids])
        positions, offset = _running(mask), 0
        if self.family.mrope:
            positions, offset = self._whole_positions(input_ids, types, pixels)
        return Inputs(input_ids, mask, positions, types, pixels, offset)

    def _process(self, images: Sequence[Image]) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
        """The tokens that stand for each image, and the tensors of all."""
        if self.inputs_of.processor.image_processor is not None:
            return self.inputs_of.process_images(images)
        # Cut as vLLM cuts them: transformers' processor of the other layout resizes otherwise.
        from vllm.transformers_utils.processors.internvl import image_to_pixel_values_internvl

        ids = self.renderer.tokenizer.convert_tokens_to_ids
        tiles = [
            image_to_pixel_values_internvl(
                image, input_size=SIDE, min_num=1, max_num=TILES, use_thumbnail=True
            )
            for image in images
        ]
        tokens = [
            [ids("<img>"), *[self.image_id] * (TILE_TOKENS * len(of_image)), ids("</img>")]
            for of_image in tiles
        ]
        return tokens, {"pixel_values": torch.cat(tiles)} if tiles else {}

    def _add_noise(self, pixels: dict[str, torch.Tensor], images: Sequence[Shown]) -> None:
        """In place, on each image's own pixels: as vLLM holds them, without what pads a batch."""
        start = 0
        for place, shown in enumerate(images):
            alone = self._process([shown.image])[1]["pixel_values"]
            together = pixels["pixel_values"]
            if len(together) == len(images):  # a row for each image
                alone, own = alone[0], together[place]
                own = own[tuple(slice(0, size) for size in alone.shape)]
            else:
                own = together[start : start + len(alone)]
            start += len(alone)
            if shown.noise_steps:
                signal, noise = noise_scales(shown.noise_steps)
                generator = torch.Generator().manual_seed(shown.noise_seed)
                own.copy_(signal * alone + noise * torch.randn(alone.shape, generator=generator))

    def _whole_positions(
        self, ids: torch.Tensor, types: dict[str, torch.Tensor], pixels: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, int]:
        """Of all tokens, whatever is hidden."""
        if not pixels:
            return torch.arange(ids.shape[1]).expand(3, 1, -1), 0
        positions, offset = self._whole.model.get_rope_index(
            ids, image_grid_thw=pixels["image_grid_thw"], **types
        )
        return positions, int(offset)

    def _continued(self, inputs: Inputs, tokens: Sequence[int]) -> Inputs:
        """With tokens behind it, which all are shown."""
        more = torch.tensor([list(tokens)], dtype=torch.long)
        mask = torch.cat([inputs.mask, torch.ones_like(more)], 1)
        positions = _running(mask)
        if self.family.mrope:
            numbers = torch.arange(inputs.ids.shape[1], mask.shape[1]) + inputs.offset
            behind = numbers.expand(3, 1, -1).to(inputs.positions)
            positions = torch.cat([inputs.positions, behind], 2)
        return Inputs(
            ids=torch.cat([inputs.ids, more], 1),
            mask=mask,
            positions=positions,
            types={n: torch.cat([t, torch.zeros_like(more)], 1) for n, t in inputs.types.items()},
            pixels=inputs.pixels,
            offset=inputs.offset,
        )

    @torch.inference_mode()
    def _forward(self, inputs: Inputs) -> torch.Tensor:
        """Logits behind each token, of shape (tokens, vocabulary); of recurrent families, behind
        each that is shown."""
        if self.family.mrope:
            self._whole.model.rope_deltas = None  # left behind by the last call
        if self.family.recurrent:
            return self._without_hidden(inputs).float()
        return (
            self.model(
                input_ids=inputs.ids,
                attention_mask=inputs.mask,
                position_ids=inputs.positions,
                use_cache=False,
                **inputs.types,
                **inputs.pixels,
            )
            .logits[0]
            .float()
        )

    def _without_hidden(self, inputs: Inputs) -> torch.Tensor:
        """The tokens that are shown alone, at their positions: to a recurrent layer a masked token
        is still there."""
        core = self._whole.model
        embeddings = core.get_input_embeddings()(inputs.ids)
        if inputs.pixels:
            found = core.get_image_features(**inputs.pixels, return_dict=True).pooler_output
            features = torch.cat(list(found)).to(embeddings)
            places = (inputs.ids == self.image_id)[..., None].expand_as(embeddings)
            embeddings = embeddings.masked_scatter(places, features)
        shown = inputs.mask[0].bool()
        hidden_states = core.language_model(
            inputs_embeds=embeddings[:, shown],
            position_ids=inputs.positions[:, :, shown],
            use_cache=False,
        )[0]
        return self._whole.lm_head(hidden_states)[0]


def _running(mask: torch.Tensor) -> torch.Tensor:
    """Positions that count what is shown."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
