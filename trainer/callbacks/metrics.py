"""A trainer's metrics for Prometheus: those that go to TensorBoard, each step's latest."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from prometheus_client import Gauge, start_http_server
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

STEP = Gauge("prefstream_trainer_step", "Optimizer steps taken, those before a resume included.")
METRIC = Gauge("prefstream_trainer_figure", "Of the last step that was logged.", ["name"])


@contextmanager
def serve_metrics(host: str, port: int | None) -> Generator[None]:
    """At /metrics, while the block runs. No port: not at all."""
    if port is None:
        yield
        return
    server, thread = start_http_server(port, host)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class MetricsCallback(TrainerCallback):
    """Sets the gauges to what was logged last."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        STEP.set(state.global_step)
        for name, value in (logs or {}).items():
            if isinstance(value, int | float):
                METRIC.labels(name).set(value)
