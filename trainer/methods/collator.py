"""Batches of rows as TRL's DPO trainer takes them: the chosen sides, then the rejected ones."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from service import images
from service.checkpoints.input_processor import InputProcessor
from service.rendering import Answer
from trainer.stream.rows import Row

ROW_WEIGHT = "row_weight"
"""Key of a batch: the weight of its rows in the loss."""

SAMPLING_LOGPS = "sampling_logps"
"""Key of a batch: float32 of shape (sides, tokens - 1): the log-probability with which the policy
sampled the token after each place; NaN where that is not known."""

SAMPLING_VERSIONS = "sampling_versions"
"""Key of a batch: int64 of shape (sides,): the version of the weights that sampled a side; -1: none
did."""


class RowCollator:
    """Makes a batch of rows of one weight: ids as the policy was asked and as it wrote, pixels by
    the checkpoint's processor."""

    def __init__(self, inputs: InputProcessor) -> None:
        self._inputs = inputs
        padding = inputs.processor.tokenizer.pad_token_id
        self._padding: int = 0 if padding is None else padding  # masked, so any id does

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Keys and shapes as TRL's collator for vision preference rows has them: `input_ids`,
        `attention_mask` and `completion_mask` (sides, tokens), padded at the end, the types of
        tokens where the model asks for them, and what the processor makes of the images; beside
        them the keys above.

        Raises: BadConversation.
        """
        [weight] = {row.weight for row in rows}  # rows come in blocks of one weight
        answers = [self._inputs.renderer.pair_answers(row.pair) for row in rows]
        sides = [chosen for chosen, _ in answers] + [rejected for _, rejected in answers]
        tokens, pixels = self._images(rows)
        image_tokens = iter(tokens)
        sequences: list[torch.Tensor] = []
        completions: list[torch.Tensor] = []
        for side in sides:
            prompt = self._inputs.with_images(side.prompt_token_ids, image_tokens)
            sequences.append(torch.tensor(prompt + side.token_ids))
            completions.append(torch.tensor([0] * len(prompt) + [1] * len(side.token_ids)))
        lengths = torch.tensor([[len(sequence)] for sequence in sequences])
        input_ids = pad_sequence(sequences, batch_first=True, padding_value=self._padding)
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths).long(),
            "completion_mask": pad_sequence(completions, batch_first=True),
            **self._token_types(input_ids),
            **pixels,
            **_sampling(rows, sides, lengths, input_ids.shape[1]),
            ROW_WEIGHT: weight,
        }

    def _token_types(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Int64 of shape (sides, tokens), for models that want to be told which are of images."""
        found = self._inputs.token_types(input_ids.tolist())
        return {name: torch.tensor(types) for name, types in found.items()}

    def _images(self, rows: Sequence[Row]) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
        """As `process_images`: of the chosen sides, and then of the rejected ones."""
        chosen = [images.decode_rgb(content) for row in rows for content in row.images]
        if any(row.rejected_images is not None for row in rows):
            others = chain.from_iterable(row.rejected_images or row.images for row in rows)
            return self._inputs.process_images(
                chosen + [images.decode_rgb(content) for content in others]
            )
        tokens, pixels = self._inputs.process_images(chosen)  # once, for both
        return tokens + tokens, {name: torch.cat((v, v)) for name, v in pixels.items()}


def _sampling(
    rows: Sequence[Row], sides: Sequence[Answer], lengths: torch.Tensor, longest: int
) -> dict[str, torch.Tensor]:
    """What is known of how the sides were sampled; nothing, if none was."""
    pairs = [row.pair for row in rows]
    known = [(p.chosen_logprobs, p.chosen_version) for p in pairs]
    known += [(p.rejected_logprobs, p.rejected_version) for p in pairs]
    if not any(logprobs for logprobs, _ in known):
        return {}
    logps = torch.full((len(sides), longest - 1), torch.nan)
    versions = torch.full((len(sides),), -1)
    for i, (side, (logprobs, version)) in enumerate(zip(sides, known, strict=True)):
        if version is None or logprobs is None or len(logprobs) < len(side.token_ids):
            continue
        end = int(lengths[i, 0]) - 1
        logps[i, end - len(side.token_ids) : end] = torch.tensor(logprobs[: len(side.token_ids)])
        versions[i] = version
    return {SAMPLING_LOGPS: logps, SAMPLING_VERSIONS: versions}
