"""New versions of the policy: to the weight store, then announced to the workers."""

import time
from pathlib import Path
from typing import Literal

import structlog

from service.client import Client
from service.schemas import Weights, WeightsKind, WeightVersion
from service.weight_store import WeightStore
from trainer.waiting import Waiter

log = structlog.get_logger()

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What peft saves of an adapter, and vLLM loads."""

PUBLISHING_PREFIX = ".weights-"
"""Of folders in a trainer's output, in which weights are made ready to be published."""

LONG_POLL_S = 5.0
"""Seconds of one question whether all workers have settled on a version."""


class Publisher:
    """Of one trainer. Its store is its own."""

    def __init__(
        self,
        client: Client,
        waiter: Waiter,
        store: WeightStore,
        *,
        run: str,
        version: int = 0,
        keep: int,
        wait: Literal["none", "all"],
        wait_s: float,
    ) -> None:
        """`version`: the newest that this line of checkpoints published."""
        self._client = client
        self._waiter = waiter
        self._store = store
        self._run = run
        self.version = version
        """The newest that was published."""
        self._keep = keep
        self._wait = wait
        self._wait_s = wait_s

    def replaces_weights(self) -> bool:
        """Whether the service has a version while this line has published none. Raises: Stopped."""
        return self.version == 0 and self._waiter.retry(self._client.weights).newest is not None

    def publish(self, folder: Path, step: int, kind: WeightsKind = "lora") -> WeightVersion:
        """Publishes a folder's weights as the newest version. Full weights may be moved away.

        Raises: Stopped.
        """
        state = self._waiter.retry(self._client.weights)
        self._log_refusals(state)
        newest = state.newest.version if state.newest else 0
        # The service may have lost its newest announcements; a version's number is never reused.
        version = max(newest, self.version, *state.withdrawn) + 1
        published = self._store.publish(
            folder,
            version,
            kind,
            only=ADAPTER_FILES if kind == "lora" else None,
            move=kind == "full",
            step=step,
            run=self._run,
        )
        self._waiter.retry(lambda: self._client.announce(published))
        self.version = version
        log.info("published", version=version, step=step, location=published.location)
        if self._wait == "all":
            self.wait_until_served(version)
        served = {worker.weight_version for worker in state.workers}
        self._store.keep_newest(self._keep, besides=served)
        return published

    def wait_until_served(self, version: int) -> bool:
        """Waits until every live worker serves the version, or a newer one, or has refused it.

        False: not within `wait_s`. Raises: Stopped.
        """
        end = time.monotonic() + self._wait_s
        while (left := end - time.monotonic()) > 0:
            wait_s = min(LONG_POLL_S, left)
            state = self._waiter.retry(
                lambda s=wait_s: self._client.weights(settled=version, wait_s=s)
            )
            behind = workers_behind(state, version)
            if not behind:
                self._waiter.done()
                self._log_refusals(state)
                return True
            self._waiter.pause(
                "waiting for workers", 0, lambda w=behind: {"version": version, "workers": w}
            )
        log.warning("workers lag; going on", version=version, seconds=self._wait_s)
        return False

    def _log_refusals(self, state: Weights) -> None:
        for refusal in state.refused:
            if refusal.version == self.version:
                log.warning(
                    "a worker refused the version",
                    version=refusal.version,
                    worker=refusal.worker_id,
                    reason=refusal.reason,
                )


def workers_behind(state: Weights, version: int) -> list[str]:
    """Live workers that neither serve the version or a newer one nor have refused it."""
    refused = {refusal.worker_id for refusal in state.refused if refusal.version == version}
    return [
        worker.id
        for worker in state.workers
        if worker.weight_version < version and worker.id not in refused
    ]
