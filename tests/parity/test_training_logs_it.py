"""Worker, service and trainer together: the difference that training logs, version by version."""

import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from service.client import Client, image_data
from service.commands.local_stack import LocalStack, free_port
from service.schemas import RunSettings, SampleRequest
from trainer.settings import TrainerSettings
from trainer.toy.dataset import examples, png
from trainer.train import train

STEPS = 4


def feed(url: str, stop: threading.Event) -> None:
    """Questions that the shapes world's own annotator ranks, until all steps were taken."""
    requests = (
        SampleRequest(
            prompt=item.prompt,
            images=[image_data(png(item))],
            n=4,
            max_tokens=48,
            annotator="toy",
            metadata=item.metadata,
            run="main",
        )
        for seed in range(1000)
        for item in examples(16, kinds=("caption",), seed=seed)
        if not stop.is_set()
    )
    with Client(url, retry_for_s=60) as client:
        for _ in client.map(requests, in_flight=16):
            pass


@pytest.mark.timeout(600)
def test_each_version_is_scored_as_the_engine_scored_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stop = threading.Event()
    with LocalStack(
        model="toy",
        embedder="embedded",
        host="127.0.0.1",
        port=free_port(),
        data=tmp_path / "stack",
    ) as stack:
        with Client(stack.url) as client:
            client.put_run("main", RunSettings(max_staleness=0))
        feeding = threading.Thread(target=feed, args=(stack.url, stop))
        feeding.start()
        try:
            settings = TrainerSettings(
                url=stack.url,
                model="toy",
                dtype="float32",
                output=tmp_path / "out",
                lora_rank=16,
                lora_alpha=32,
                learning_rate=3e-4,
                batch_size=4,
                device_batch_size=2,
                steps=STEPS,
                read_ahead=0,
                publish_every=1,
                publish_wait="all",
            )
            result = train(settings, threading.Event())
        finally:
            stop.set()
            feeding.join()
    assert result.version >= STEPS - 1
    events = EventAccumulator(str(next((tmp_path / "out").glob("**/events.*")).parent)).Reload()
    name = "train/sampling/sampling_logp_difference"
    mean, worst = events.Scalars(f"{name}/mean"), events.Scalars(f"{name}/max")
    # Each step trained on what the weights before it had sampled.
    assert [event.step for event in worst] == list(range(1, STEPS + 1))
    assert all(0 < event.value < 1e-4 for event in worst)
    assert all(a.value <= b.value for a, b in zip(mean, worst, strict=True))
