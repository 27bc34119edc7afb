"""Which workers live. Each sends a heartbeat every few seconds; silence removes it."""

from service.broker.connection import Connection, milliseconds
from service.broker.scripts import script
from service.schemas import TOLERANT, WorkerInfo


@script("workers/heartbeat.lua")
def _heartbeat(worker_id: str, info: str, ttl_ms: int) -> None: ...


@script("workers/list.lua")
def _list() -> list[str]: ...


@script("workers/unregister.lua")
def _unregister(worker_id: str) -> None: ...


class Workers:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def heartbeat(self, info: WorkerInfo) -> None:
        ttl = milliseconds(self._connection.settings.worker_ttl_s)
        await self._connection.run(_heartbeat, info.id, info.model_dump_json(), ttl)

    async def unregister(self, worker_id: str) -> None:
        """A worker that stops in order says so."""
        await self._connection.run(_unregister, worker_id)

    async def all(self) -> list[WorkerInfo]:
        infos = await self._connection.run(_list)
        workers = [WorkerInfo.model_validate_json(info, **TOLERANT) for info in infos]
        return sorted(workers, key=lambda worker: worker.id)
