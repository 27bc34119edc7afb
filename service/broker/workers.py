"""Which workers live. Each sends a heartbeat every few seconds; silence removes it.

One namespace serves one model: its jobs, versions of weights and pairs are that model's. A worker
of another one is not registered.
"""

from service.broker.connection import Connection, milliseconds
from service.broker.errors import ModelConflict
from service.broker.scripts import script
from service.schemas import TOLERANT, InputDigest, WorkerInfo


@script("workers/heartbeat.lua")
def _heartbeat(worker_id: str, info: str, ttl_ms: int) -> tuple[str, int] | None: ...


@script("workers/check.lua")
def _check(model: str, input_digest: str) -> tuple[str, int] | None: ...


@script("workers/list.lua")
def _list() -> list[str]: ...


@script("workers/unregister.lua")
def _unregister(worker_id: str) -> None: ...


class Workers:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def check(self, model: str, input_digest: InputDigest) -> None:
        """Whether a worker of this model could register now.

        Raises: ModelConflict.
        """
        other = await self._connection.run(_check, model, input_digest.model_dump_json())
        self._raise_for(other, model, input_digest)

    async def heartbeat(self, info: WorkerInfo) -> None:
        """The first one registers the worker, and so does one after a silence. A worker that is
        registered stays so, whoever else comes.

        Raises: ModelConflict.
        """
        ttl = milliseconds(self._connection.settings.worker_ttl_s)
        other = await self._connection.run(_heartbeat, info.id, info.model_dump_json(), ttl)
        self._raise_for(other, info.model, info.input_digest)

    def _raise_for(
        self, other: tuple[str, int] | None, model: str, digest: InputDigest | None
    ) -> None:
        if other is None:
            return
        info, ttl_ms = other
        worker = WorkerInfo.model_validate_json(info, **TOLERANT)
        namespace = self._connection.settings.namespace
        raise ModelConflict(namespace, model, digest, worker, ttl_ms / 1000)

    async def unregister(self, worker_id: str) -> None:
        """A worker that stops in order says so."""
        await self._connection.run(_unregister, worker_id)

    async def all(self) -> list[WorkerInfo]:
        infos = await self._connection.run(_list)
        workers = [WorkerInfo.model_validate_json(info, **TOLERANT) for info in infos]
        return sorted(workers, key=lambda worker: worker.id)
