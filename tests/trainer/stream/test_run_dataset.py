"""`prefstream.torch_dataset`, as PyTorch's own loader reads it."""

from collections.abc import Iterator

import pytest
from redis import Redis
from torch.utils.data import DataLoader

from prefstream import Client, PairRequest, RunSettings, image_data, torch_dataset
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served
from tests.service.samples import png

PAIRS = 40


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with served(Settings.model_validate({"redis_url": server.url})) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        client.put_run("r", RunSettings())
        yield client


def append(client: Client, number: int) -> None:
    pair = PairRequest(
        prompt=f"What is {number}?",
        images=[image_data(png(size=(8 + number, 8)))],
        chosen="A square.",
        rejected="A cat.",
        pair_id=f"pair-{number}",
    )
    client.append("r", pair)


@pytest.mark.parametrize("workers", [0, 3])
def test_each_pair_comes_once_whoever_reads(client: Client, url: str, workers: int) -> None:
    for number in range(PAIRS):
        append(client, number)
    dataset = torch_dataset("r", url=url, size=3, idle_s=2)
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=workers,
        collate_fn=list,
        multiprocessing_context="spawn" if workers else None,
    )
    rows = [row for batch in loader for row in batch]
    assert sorted(row["pair_id"] for row in rows) == sorted(f"pair-{n}" for n in range(PAIRS))
    for row in rows:
        number = int(row["pair_id"].removeprefix("pair-"))
        [image] = row["images"]
        assert (image.mode, image.size) == ("RGB", (8 + number, 8))
        assert row["prompt"] == [
            {
                "role": "user",
                "content": [
                    {"type": "image", "text": None},
                    {"type": "text", "text": f"What is {number}?"},
                ],
            }
        ]
        [turn] = row["rejected"]
        assert turn["content"] == [{"type": "text", "text": "A cat."}]
    [group] = client.run("r").groups
    assert (group.acknowledged, group.leased + group.returned) == (0, PAIRS)
    dataset.ack(row["receipt"] for row in rows)
    dataset.close()
    [group] = client.run("r").groups
    assert (group.acknowledged, group.leased, group.returned) == (PAIRS, 0, 0)


def test_what_is_not_acknowledged_comes_again(client: Client, url: str) -> None:
    for number in range(4):
        append(client, number)
    dataset = torch_dataset("r", url=url, size=2, lease_s=0.5, idle_s=2)
    first = []
    for row in dataset:
        first.append(row)
        if len(first) == 3:
            break
    dataset.ack(row["receipt"] for row in first)  # all of one lease, and half of another
    again = list(dataset)
    assert [row["pair_id"] for row in again] == ["pair-2", "pair-3"]
    dataset.ack(row["receipt"] for row in again)
    dataset.close()
    assert client.run("r").groups[0].acknowledged == 4


def test_pairs_whose_image_is_gone_are_left_out(client: Client, url: str, server: Server) -> None:
    for number in range(3):
        append(client, number)
    [gone] = client.pairs_page("r").pairs[1].images
    with Redis.from_url(server.url) as redis:
        assert redis.delete(*redis.scan_iter(match=f"*{gone.removeprefix('sha256:')}*"))
    dataset = torch_dataset("r", url=url, size=3, idle_s=0.5)
    rows = list(dataset)
    assert [row["pair_id"] for row in rows] == ["pair-0", "pair-2"]
    dataset.ack(row["receipt"] for row in rows)
    dataset.close()
    assert client.run("r").groups[0].acknowledged == 3
