"""What only rank 0 does: it leases the pairs, keeps the ledger and the journal, and publishes."""

import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast

from service.checkpoints.input_processor import InputProcessor
from service.client import Client
from service.schemas import InputDigest
from service.weight_store import UnusableAddress, WeightStore
from trainer.callbacks.metrics import serve_metrics
from trainer.data import InvalidDataset, InvalidRow
from trainer.settings import InvalidSettings, TrainerSettings
from trainer.stream.dataset import PairDataset
from trainer.stream.inputs import check_digest
from trainer.stream.journal import Journal
from trainer.stream.ledger import Ledger
from trainer.stream.mixing import AveragedRows, MixedRows, with_second
from trainer.stream.offline import OfflineRows
from trainer.stream.online import OnlineRows
from trainer.stream.rows import RowSource
from trainer.stream.usable import RowCheck
from trainer.waiting import Stopped, Waiter
from trainer.weights.checkpoint import CheckpointRecord
from trainer.weights.publish import PUBLISHING_PREFIX, Publisher

CLIENT_RETRY_S = 5.0
"""How long the client repeats a call by itself. Beyond that the trainer says what it waits for."""


@dataclass(frozen=True)
class MainProcess:
    """What only rank 0 (accelerate's main process) has: it alone talks to the service."""

    ledger: Ledger
    journal: Journal
    rows: RowSource
    publisher: Publisher


@contextmanager
def open_main_process(
    settings: TrainerSettings,
    record: CheckpointRecord | None,
    stop: threading.Event,
    inputs: InputProcessor,
) -> Generator[MainProcess]:
    """In rank 0. Afterwards, what is in no checkpoint is handed back to the service.

    `record`: of the checkpoint that is resumed. Raises: InvalidSettings, DifferentInputs.
    """
    settings.output.mkdir(parents=True, exist_ok=True)
    for left_over in settings.output.glob(f"{PUBLISHING_PREFIX}*"):
        shutil.rmtree(left_over)
    ledger = Ledger(record.unacknowledged if record else ())
    key = settings.api_key.get_secret_value() if settings.api_key else None
    with (
        serve_metrics(settings.metrics_host, settings.metrics_port),
        Client(
            settings.url, api_key=key, namespace=settings.namespace, retry_for_s=CLIENT_RETRY_S
        ) as client,
    ):
        if record:
            ledger.resume(record.leases, lambda lease: client.ack(record.run, lease))
        online = OnlineRows(
            client,
            ledger,
            Waiter(stop),
            inputs,
            run=settings.run,
            group=settings.group,
            lease_s=settings.lease_s,
            second=with_second if settings.method == "averaged" else None,
        )
        publisher = Publisher(
            client,
            Waiter(stop),
            _weight_store(settings),
            run=settings.run,
            version=record.version if record else 0,
            keep=settings.keep_versions,
            wait=settings.publish_wait,
            wait_s=settings.publish_wait_s,
        )
        _check_workers(client, Waiter(stop), inputs.digest)
        journal = Journal(settings.output, record.step if record else 0)
        try:
            check = RowCheck(inputs)
            rows = _row_source(settings, online, check, journal.pairs)
            yield MainProcess(ledger, journal, rows, publisher)
        finally:
            ledger.close()


def _weight_store(settings: TrainerSettings) -> WeightStore:
    """Raises: InvalidSettings."""
    try:
        return WeightStore(cast(str, settings.weights))
    except UnusableAddress as error:
        raise InvalidSettings(f"`weights` {settings.weights!r}: {error}.") from error


def _check_workers(client: Client, waiter: Waiter, digest: InputDigest) -> None:
    """Before anything is loaded: each pair that comes is checked, but that may be much later.

    Raises: DifferentInputs.
    """
    with suppress(Stopped):
        for worker in waiter.retry(client.weights).workers:
            check_digest(digest, worker.input_digest, f"Worker {worker.id} makes pairs")


def _row_source(
    settings: TrainerSettings, online: OnlineRows, check: RowCheck, start: int
) -> RowSource:
    """Where the rows come from, after `start` pairs. Raises: InvalidSettings."""
    if settings.method == "averaged":
        return AveragedRows(online, gamma=cast(float, settings.gamma))
    if settings.data is None:
        return online
    try:
        rows = PairDataset(
            settings.data,
            images=settings.data_images or (),
            chosen_alone=settings.loss == "sft",
            spool=settings.output,
        )
        if settings.method == "offline":
            return OfflineRows(rows, seed=settings.seed, start=start, check=check)
        p = cast(float, settings.offline_share)
        return MixedRows(online, rows, p=p, seed=settings.seed, start=start, check=check)
    except (InvalidDataset, InvalidRow, ValueError, OSError) as error:
        raise InvalidSettings(f"`data` {settings.data!r}: {error}") from error
