"""Pairs that cannot be trained on are left out, counted and acknowledged, and training goes on."""

import asyncio
import json
import threading
from pathlib import Path

import pytest
import torch
from prometheus_client import REGISTRY
from redis import Redis
from structlog.testing import capture_logs

from service.client import Client
from service.schemas import Group, ImagePart, Message, Pair, TextPart, assistant_turn
from tests.servers import Server
from tests.trainer import pairs
from tests.trainer.conftest import Configure
from tests.trainer.test_train import group, in_thread
from tests.waiting import until
from trainer.data import SECOND_REJECTED
from trainer.stream import journal
from trainer.stream.usable import TELL_AFTER
from trainer.train import train


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def changed(number: int, pair: Pair) -> Pair:
    """Of every seven pairs, the last is good; an image's bytes are spoilt elsewhere."""
    two_places = [ImagePart(), ImagePart(), TextPart(text="?")]
    changes: dict[int, dict[str, object]] = {
        0: {"rejected": [assistant_turn("An <image> of a dog.")]},
        1: {"rejected": [assistant_turn("There is a red circle. " * 400)]},
        2: {"rejected_token_ids": [], "rejected_finish_reason": "length"},
        3: {"prompt": [Message(role="user", content=[*two_places])]},
        4: {},
        5: {},
    }
    return pair.model_copy(update=changes.get(number % 7, {}))


def spoil_images(server: Server, made: list[str]) -> None:
    """Of pair 4 of each seven, the image is cut; of pair 5, it is gone."""
    with Redis.from_url(server.url) as redis, Client(server.url) as client:
        for number, pair in enumerate(client.pairs(pairs.RUN)):
            assert pair.pair_id == made[number]
            key = f"prefstream:image:{pair.images[0].removeprefix('sha256:')}"
            if number % 7 == 4:
                content = redis.get(key)
                assert isinstance(content, bytes)
                redis.set(key, content[:60])
            if number % 7 == 5:
                assert redis.delete(key)
            if number + 1 == len(made):
                return


def counted() -> dict[str, float]:
    [metric] = [m for m in REGISTRY.collect() if m.name == "prefstream_trainer_left_out"]
    return {s.labels["reason"]: s.value for s in metric.samples if s.name.endswith("_total")}


def test_training_goes_on_among_pairs_that_cannot_be_used(
    server: Server, configure: Configure
) -> None:
    made = pairs.append(server.url, 56, change=changed)
    spoil_images(server, made)
    before = counted()
    settings = configure(steps=2, lease_s=1.0)
    with capture_logs() as logs:
        assert train(settings, threading.Event()).finished
    good = made[6::7]
    assert journal.read(settings.output) == [(1, good[:4]), (2, good[4:])]
    assert group(server).acknowledged == 56
    assert group(server).redelivered == 0
    reasons = {reason: value - before.get(reason, 0) for reason, value in counted().items()}
    assert {reason: value for reason, value in reasons.items() if value} == {
        "text": 16,
        "too long": 8,
        "empty": 8,
        "image unreadable": 8,
        "image gone": 8,
    }
    left_out = [line for line in logs if line["event"] == "pair left out"]
    assert {line["pair"] for line in left_out} == set(made) - set(good)
    assert not [line for line in logs if line["event"] == "no pair can be trained on"]


def test_if_no_pair_is_usable_they_are_acknowledged_and_it_is_said(
    server: Server, configure: Configure
) -> None:
    count = TELL_AFTER + 4
    pairs.append(server.url, count, reference="An <image> of a dog.")
    stop = threading.Event()
    with capture_logs() as logs:
        training = in_thread(lambda: train(configure(steps=2), stop))

        async def all_acknowledged() -> bool:
            groups: list[Group] = await asyncio.to_thread(lambda: groups_of(server))
            return bool(groups) and groups[0].acknowledged == count

        asyncio.run(until(all_acknowledged, timeout_s=120))
        stop.set()
        training.join(60)
    [said] = [line for line in logs if line["event"] == "no pair can be trained on"]
    assert said["log_level"] == "error"
    assert (said["last"], said["reasons"]) == (TELL_AFTER, {"text": TELL_AFTER})


def groups_of(server: Server) -> list[Group]:
    with Client(server.url) as client:
        return client.run(pairs.RUN).groups


def test_averaged_leaves_out_pairs_whose_second_side_is_none(
    server: Server, configure: Configure
) -> None:
    second: list[object] = [None, "An <image> of a dog.", " ", "There is nothing, number 3."]

    def change(number: int, pair: Pair) -> Pair:
        return pair.model_copy(update={"metadata": {SECOND_REJECTED: second[number % 4]}})

    made = pairs.append(server.url, 16, change=change)
    settings = configure(method="averaged", steps=1)
    assert train(settings, threading.Event()).finished
    assert journal.read(settings.output) == [(1, made[3::4])]
    assert group(server).acknowledged == 16


def test_rows_of_a_data_set_that_cannot_be_used_are_passed_over(
    server: Server, configure: Configure, tmp_path: Path
) -> None:
    data = pairs.write(tmp_path, 6)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[4]["rejected"] = "An <image> of a dog."
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = configure(method="offline", data=str(data), steps=3)
    assert train(settings, threading.Event()).finished
    used = [pair_id for _, step in journal.read(settings.output) for pair_id in step]
    assert len(used) == 12
    assert set(used) == {"d0", "d2", "d3", "d5"}
    for row in rows:
        row["rejected"] = "An <image> of a dog."
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="none of the 6 pairs of the data set can be trained on"):
        train(settings.model_copy(update={"output": tmp_path / "again"}), threading.Event())
