"""Batches as TRL takes them: equal to what TRL's own collator makes where that is right."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from service import images
from service.checkpoints.input_processor import load_input_processor
from service.checkpoints.settings import InputSettings
from service.schemas import Message, user_turn
from tests.trainer.pairs import items, rows_of
from trainer.methods.collator import (
    ROW_WEIGHT,
    SAMPLING_LOGPS,
    SAMPLING_VERSIONS,
    RowCollator,
)
from trainer.stream.rows import Row

INPUTS = load_input_processor("toy", InputSettings())
END = INPUTS.renderer.tokenizer.eos_token_id


def rows(count: int) -> list[Row]:
    return rows_of(items(count), [f"There is nothing. {'No. ' * n}".strip() for n in range(count)])


def trl_row(row: Row) -> dict[str, Any]:
    def turns(messages: list[Message]) -> list[dict[str, Any]]:
        return [
            {"role": m.role, "content": [part.model_dump() for part in m.parts]} for m in messages
        ]

    return {
        "prompt": turns(row.pair.prompt),
        "chosen": turns(row.pair.chosen),
        "rejected": turns(row.pair.rejected),
        "images": [images.decode_rgb(content) for content in row.images],
    }


def completions(batch: dict[str, Any]) -> list[list[int]]:
    return [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]


def sequences(batch: dict[str, Any]) -> list[list[int]]:
    return [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def test_the_toy_whose_template_writes_all_is_as_trl_has_it() -> None:
    given = rows(3)
    ours = RowCollator(INPUTS)(given)
    theirs = DataCollatorForVisionPreference(INPUTS.processor)([trl_row(row) for row in given])
    assert sequences(ours) == sequences(theirs)
    assert completions(ours) == completions(theirs)
    assert all(ids[-1] == END for ids in completions(ours))
    for name in ("pixel_values", "image_sizes"):
        torch.testing.assert_close(ours[name], theirs[name])
    assert ours[ROW_WEIGHT] == 1.0
    assert SAMPLING_LOGPS not in ours


def test_rows_without_images_and_of_several() -> None:
    one, two, three = rows(3)
    none = replace(
        one, pair=one.pair.model_copy(update={"prompt": [user_turn("What?", 0)]}), images=[]
    )
    several = replace(
        two,
        pair=two.pair.model_copy(update={"prompt": [user_turn("What differs?", 2)]}),
        images=two.images + three.images,
    )
    collate = RowCollator(INPUTS)
    batch = collate([none, several])
    image = INPUTS.renderer.image_token_id
    alone = [(ids == image).sum() for ids in collate([two, three])["input_ids"][:2]]
    counts = [int((ids == image).sum()) for ids in batch["input_ids"]]
    assert counts == [0, sum(alone)] * 2
    assert len(batch["pixel_values"]) == 4
    assert "pixel_values" not in collate([none])


def test_pictures_of_one_side_alone() -> None:
    one, two = rows(2)
    batch = RowCollator(INPUTS)([replace(one, rejected_images=two.images), two])
    same = RowCollator(INPUTS)([one, two])
    torch.testing.assert_close(batch["pixel_values"][:2], same["pixel_values"][:2])
    torch.testing.assert_close(batch["pixel_values"][2], same["pixel_values"][1])
    torch.testing.assert_close(batch["pixel_values"][3], same["pixel_values"][1])


def test_what_was_sampled_is_trained_and_its_log_probabilities_stand_at_their_places() -> None:
    one, two = rows(2)
    letters = INPUTS.renderer.tokenizer.convert_tokens_to_ids(list("dog"))
    sampled = one.pair.model_copy(
        update={
            "chosen_token_ids": [*letters, END],
            "chosen_logprobs": [-1.0, -2.0, -3.0, -4.0],
            "chosen_version": 7,
            "chosen_finish_reason": "stop",
            # Cut: no end. Of BDHS: no log-probabilities.
            "rejected_token_ids": letters,
            "rejected_version": 7,
            "rejected_finish_reason": "length",
        }
    )
    batch = RowCollator(INPUTS)([replace(one, pair=sampled), two])
    assert completions(batch)[0] == [*letters, END]
    assert completions(batch)[2] == letters
    assert batch[SAMPLING_VERSIONS].tolist() == [7, -1, -1, -1]
    logps = batch[SAMPLING_LOGPS]
    where = batch["completion_mask"][:, 1:].bool()
    assert logps[0][where[0]].tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert logps.isnan().sum() == logps.numel() - 4


def test_rows_of_two_weights_are_no_batch() -> None:
    one, two = rows(2)
    with pytest.raises(ValueError, match="too many values"):
        RowCollator(INPUTS)([one, replace(two, weight=0.5)])
