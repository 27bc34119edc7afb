"""A trainer's figures over HTTP, while it waits and when it has trained."""

import threading

import httpx
import pytest
from prometheus_client import REGISTRY

from tests.servers import Server, free_port
from tests.trainer import pairs
from tests.trainer.conftest import Configure
from trainer.train import train
from trainer.weights.publish import Publisher


def test_figures_are_served_while_it_trains(
    server: Server, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs.append(server.url, 8)
    port = free_port()
    answers: list[str] = []
    publish = Publisher.publish

    def look_and_publish(self: Publisher, *arguments: object):
        answers.append(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
        return publish(self, *arguments)

    monkeypatch.setattr(Publisher, "publish", look_and_publish)
    train(configure(steps=2, publish_every=1, metrics_port=port), threading.Event())
    assert "prefstream_trainer_step 1.0" in answers[-1]
    assert 'prefstream_trainer_figure{name="loss"}' in answers[-1]
    assert REGISTRY.get_sample_value("prefstream_trainer_step") == 2
