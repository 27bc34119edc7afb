"""What all who use a namespace hold alike, and where it stands: beside the data.

`{ns}:settings` has the settings (a lease that a service counts in other seconds than its workers
do would take healthy workers' jobs) and the version of the layout of all keys. Whoever comes first
writes them; whoever comes later goes by them.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service.broker.errors import UnusableServer
from service.broker.scripts import script
from service.broker.server_check import check_server
from service.schemas import TOLERANT, NamespaceSettings
from service.settings import Settings

if TYPE_CHECKING:
    from service.broker.connection import Connection

LAYOUT = "1"
"""Of the keys and of what they hold. Another one is for releases that could not share a namespace
with this one; within a layout, releases understand each other (docs/api.md, Upgrades)."""

REFRESH_S = 5.0
"""Seconds within which a running process goes by settings that were changed, if it does anything at
all."""

log = logging.getLogger(__name__)


@script("settings/found.lua")
def _found(layout: str, *values: str) -> None: ...


@script("settings/change.lua")
def _change(*values: str) -> None: ...


class Agreement:
    def __init__(self, connection: "Connection", environment: Settings, *, founds: bool) -> None:
        """`founds`: writes the environment's settings where none are written yet. Who only passes
        by goes by them without writing."""
        self._connection = connection
        self._environment = environment
        self._founds = founds
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._checked = False
        """The server is fit for it."""
        self._told: set[str] = set()
        self.settings = environment
        """In force, as they were last seen."""

    async def keep(self) -> None:
        """A look now and then. Costs nothing in between. Raises: UnusableServer."""
        if time.monotonic() - self._looked_at < REFRESH_S:
            return
        async with self._looking:
            if time.monotonic() - self._looked_at >= REFRESH_S:
                await self.look()

    async def look(self) -> None:
        """Takes over what stands beside the data. Raises: UnusableServer."""
        if not self._checked:
            await check_server(self._connection)
            self._checked = True
        stored = await self._read()
        if self._lacks(stored):
            values = _flat(self._environment, NamespaceSettings.model_fields.keys())
            await self._connection.run_at_once(_found, LAYOUT, *(values if self._founds else ()))
            stored = await self._read()
        self._check_layout(stored)
        settings = self._environment.model_copy(update=self._parsed(stored))
        if settings != self.settings:
            self.settings = settings
        self._tell_differences()
        self._looked_at = time.monotonic()

    async def change(self, changes: NamespaceSettings) -> None:
        """Changes the fields that were set, for all who use the namespace. Raises: as `look`."""
        await self.keep()  # of another layout, nothing is changed
        if changes.model_fields_set:
            await self._connection.run_at_once(_change, *_flat(changes, changes.model_fields_set))
        await self.look()

    async def _read(self) -> dict[str, str]:
        key = self._connection.key("settings")
        return await self._connection.command_at_once("HGETALL", key)

    def _lacks(self, stored: dict[str, str]) -> bool:
        """A namespace that is new, or was last used by a release that knew fewer settings."""
        return "layout" not in stored or (
            self._founds
            and stored["layout"] == LAYOUT
            and not NamespaceSettings.model_fields.keys() <= stored.keys()
        )

    def _check_layout(self, stored: dict[str, str]) -> None:
        if stored["layout"] == LAYOUT:
            return
        raise UnusableServer(
            f"The data of the namespace {self._environment.namespace!r} have layout "
            f"{stored['layout']}, and this prefstream ({version('prefstream')}) knows layout "
            f"{LAYOUT} alone. Use the release that wrote them, or a namespace of its own "
            "(PREFSTREAM_NAMESPACE, --namespace)."
        )

    def _parsed(self, stored: dict[str, str]) -> dict[str, object]:
        try:
            return NamespaceSettings.model_validate(stored, **TOLERANT).model_dump(
                exclude_unset=True
            )
        except ValidationError as error:
            raise UnusableServer(
                f"The settings of the namespace {self._environment.namespace!r} cannot be read: "
                + "; ".join(f"{e['loc'][0]} is {e['input']!r}: {e['msg']}" for e in error.errors())
                + f". They are the hash {self._connection.key('settings')} in Redis: "
                "`HSET` what is meant there, or `HDEL` it for the default."
            ) from None

    def _tell_differences(self) -> None:
        """Once for each: who set it in the environment expects it to hold."""
        given = self._environment.model_fields_set & NamespaceSettings.model_fields.keys()
        for name in sorted(given - self._told):
            own, agreed = getattr(self._environment, name), getattr(self.settings, name)
            if own != agreed:
                self._told.add(name)
                log.warning(
                    "PREFSTREAM_%s=%s is not used: the namespace %r has %s=%s, by which all of its "
                    "processes go. `prefstream settings set %s=%s` changes it for all of them.",
                    *(name.upper(), own, self._environment.namespace, name, agreed, name, own),
                )


def _flat(settings: NamespaceSettings, names: Iterable[str]) -> list[str]:
    """Names and values in turn, as text."""
    values = settings.model_dump(mode="json", include=set(names))
    return [text for name, value in values.items() for text in (name, str(value))]
