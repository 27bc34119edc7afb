"""Runs: a name, settings, and an append-only log of pairs.

A pair's place in the log is the id of its stream entry, `<position>-<nonce>`. Positions are dense
from 1; the nonce is chance. A cursor is `<epoch>.<position>-<nonce>`, so a log that was lost, or
that went back and grew anew, no longer matches the cursors read from the old one.
"""

import hashlib
import json
import random
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from service.broker.connection import Connection, fields_of, from_milliseconds
from service.broker.errors import (
    BadCursor,
    ImageGone,
    LogChanged,
    LogTrimmed,
    PairConflict,
    RunBusy,
    WindowFull,
)
from service.broker.scripts import script
from service.pair_figures import EDGES, bucket, pair_figures
from service.schemas import (
    TOLERANT,
    Appended,
    Bucket,
    Distribution,
    FilteredPage,
    FilteredPair,
    Group,
    Outcome,
    Pair,
    PairRequest,
    PairsPage,
    Run,
    RunSettings,
    outcome_of_texts,
)

MAX_CANCELLED = 500
"""Jobs that one step of a forced deletion cancels; a longer one would hold the server up."""


@script("runs/put.lua")
def _put(run: str, epoch: str, defaults: str, settings: str) -> None: ...


@script("runs/get.lua")
def _get(run: str) -> list[Any] | None: ...


@script("runs/append.lua")
def _append(
    run: str,
    pair: str,
    images: str,
    nonce: int,
    figures: str,
    key: str,
    fingerprint: str,
    new_epoch: str,
    run_settings: str,
) -> list[Any]: ...


@script("runs/check_room.lua")
def _check_room(run: str, key: str) -> list[Any]: ...


@script("runs/delete.lua")
def _delete(run: str, force: int, limit: int) -> list[Any]: ...


@script("runs/read.lua")
def _read(run: str, after: str, limit: int) -> list[Any]: ...


@script("runs/read_filtered.lua")
def _read_filtered(run: str, after: str, limit: int) -> tuple[str | None, list[Any]]: ...


class Runs:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def put(self, name: str, settings: RunSettings) -> Run:
        """Creates the run, or changes those settings of one that exists that were named when
        `settings` was made."""
        named = settings_fields(settings, settings.model_fields_set)
        await self._connection.run(_put, name, new_epoch(), DEFAULT_SETTINGS, named)
        run = await self.get(name)
        return run or await self.put(name, settings)  # deleted in this very moment

    async def get(self, name: str) -> Run | None:
        reply = await self._connection.run(_get, name)
        if reply is None:
            return None
        flat, figures, open_jobs, running_jobs, oldest, groups = reply
        fields = fields_of(flat)
        return Run(
            name=name,
            settings=settings_from(fields),
            epoch=fields["epoch"],
            open_jobs=open_jobs,
            running_jobs=running_jobs,
            oldest_open_at=from_milliseconds(oldest) if oldest else None,
            dead_jobs=int(fields.get("dead", 0)),
            pairs=int(fields["pairs"]),
            outcomes=counts_of("outcome", fields),
            filtered=counts_of("filtered", fields),
            distributions=distributions(fields_of(figures)),
            trimmed=position_of(fields.get("trimmed", "0")),
            groups=[
                Group(
                    name=group,
                    waiting=waiting,
                    leased=leased,
                    returned=returned,
                    acknowledged=int(counts[0] or 0),
                    stale=int(counts[1] or 0),
                    missed=int(counts[2] or 0),
                    redelivered=int(counts[3] or 0),
                    last_active_at=from_milliseconds(counts[4]) if counts[4] else None,
                )
                for group, waiting, leased, returned, counts in sorted(groups)
            ],
        )

    async def check_room(self, name: str, pair_id: str | None) -> None:
        """A look before the work that a pair's images make. A pair that is known needs no room;
        `append` decides.

        Raises: WindowFull.
        """
        key = "" if pair_id is None else _pair_key(name, pair_id)
        outcome, *figures = await self._connection.run(_check_room, name, key)
        if outcome == "window":
            raise WindowFull(name, *figures)

    async def append(self, name: str, request: PairRequest) -> Appended:
        """A pair from a data set, to the end of the log. Its images must be stored.

        Raises: WindowFull, ImageGone, PairConflict.
        """
        pair_id = request.pair_id or secrets.token_hex(16)
        pair = Pair.offline(
            prompt=request.conversation,
            images=request.images,
            chosen=request.chosen,
            rejected=request.rejected,
            pair_id=pair_id,
            run=name,
            created_at=datetime.now(UTC),
            metadata=request.metadata,
        )
        answer, *rest = await self._connection.run_durably(
            _append,
            name,
            pair.model_dump_json(),
            " ".join(dict.fromkeys(pair.images)),
            new_nonce(),
            offered_figures(pair),
            _pair_key(name, pair_id),
            _sha256(request.model_dump_json()),
            new_epoch(),
            DEFAULT_SETTINGS,
        )
        match answer:
            case "window":
                raise WindowFull(name, *rest)
            case "image":
                raise ImageGone(rest[0])
            case "conflict":
                raise PairConflict(name, pair_id)
            case _:
                filters = rest[0].split()
                return Appended(
                    run=name,
                    pair_id=pair_id,
                    repeated=answer == "known",
                    outcome=Outcome.filtered if filters else Outcome.pair,
                    filters=filters,
                )

    async def names(self) -> list[str]:
        return sorted(await self._connection.command("SMEMBERS", self._connection.key("runs")))

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Deletes the run, with its log and its groups, at once. `force` cancels its open jobs
        first, some hundreds at a time, and ends its leases.

        Its dead letters and ended jobs stay, and images go when nothing else names them. Raises:
        KeyError (no such run), RunBusy.
        """
        while True:
            outcome, *figures = await self._connection.run(_delete, name, int(force), MAX_CANCELLED)
            match outcome:
                case "deleted":
                    return
                case "no run":
                    raise KeyError(name)
                case "busy":
                    raise RunBusy(name, *figures)
                case _:  # there are more to cancel
                    pass

    async def pairs(self, name: str, after: str | None, limit: int) -> PairsPage:
        """Pairs after the cursor, or the oldest that are kept.

        Raises: KeyError (no such run), BadCursor, LogChanged, LogTrimmed.
        """
        cursor = Cursor.parse(after) if after else None
        place = cursor.place if cursor else ""
        epoch, last, trimmed, found, entries = await self._connection.run(_read, name, place, limit)
        if epoch is None:
            raise KeyError(name)
        if cursor is not None:
            cursor.check(name, epoch, last, trimmed, found)
        pairs = [
            Pair.model_validate_json(fields_of(flat)["pair"], **TOLERANT) for _, flat in entries
        ]
        end = entries[-1][0] if entries else place or trimmed
        return PairsPage(pairs=pairs, cursor=str(Cursor(epoch, end)))

    async def filtered(self, name: str, after: str | None, limit: int) -> FilteredPage:
        """Pairs that the run left out, after the cursor or the oldest that are kept. What is no
        longer kept is passed over.

        Raises: KeyError (no such run), BadCursor, LogChanged.
        """
        cursor = Cursor.parse(after) if after else None
        place = cursor.place if cursor else ""
        epoch, entries = await self._connection.run(_read_filtered, name, place, limit)
        if epoch is None:
            raise KeyError(name)
        if cursor is not None:
            cursor.check_epoch(name, epoch)
        pairs = [
            FilteredPair(
                pair=Pair.model_validate_json(fields["pair"], **TOLERANT),
                filters=fields["filters"].split(),
            )
            for fields in (fields_of(flat) for _, flat in entries)
        ]
        end = entries[-1][0] if entries else place or "0-0"
        return FilteredPage(pairs=pairs, cursor=str(Cursor(epoch, end)))


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in one run's log: after the pair at `place`; `0-0` is before the first."""

    epoch: str
    place: str

    @classmethod
    def parse(cls, text: str) -> Self:
        epoch, _, place = text.partition(".")
        position, _, nonce = place.partition("-")
        if not (epoch.isalnum() and _digits(position) and _digits(nonce)):
            raise BadCursor(text)
        return cls(epoch, place)

    def __str__(self) -> str:
        return f"{self.epoch}.{self.place}"

    @property
    def position(self) -> int:
        return position_of(self.place)

    def check_epoch(self, run: str, epoch: str) -> None:
        """Raises: LogChanged."""
        if self.epoch != epoch:
            raise LogChanged(run, str(self), f"the run was made anew (its epoch is {epoch})")

    def check(self, run: str, epoch: str, last: str, trimmed: str, found: str) -> None:
        """Raises if the log is not the one this cursor was read from.

        `found` is the place of the pair that has this position now, empty if there is none.
        """
        self.check_epoch(run, epoch)
        if self.position > position_of(last):
            raise LogChanged(run, str(self), f"the log went back to position {position_of(last)}")
        if self.position < position_of(trimmed):
            raise LogTrimmed(run, str(self), position_of(trimmed) - self.position)
        place = found or (trimmed if self.position == position_of(trimmed) else "")
        if place and place != self.place:
            raise LogChanged(run, str(self), "the log went back, and grew anew past that position")


def new_epoch() -> str:
    return secrets.token_hex(4)


def new_nonce() -> int:
    """Tells a pair from another that took the same place in a log that went back."""
    return random.getrandbits(31)


def position_of(place: str) -> int:
    return int(place.partition("-")[0])


def settings_fields(
    settings: RunSettings, names: Collection[str] = RunSettings.model_fields
) -> str:
    """The settings of these names as a JSON list of alternating names and values, all text, for
    HSET."""
    flat: list[str] = []
    for name, value in settings.model_dump(mode="json", include=set(names)).items():
        if name == "filters":
            flat += [name, settings.filters.model_dump_json(exclude_none=True)]
        else:
            flat += [name, "" if value is None else str(value)]
    return json.dumps(flat)


def settings_from(fields: dict[str, str]) -> RunSettings:
    """What `settings_fields` stored."""
    found: dict[str, Any] = {
        name: fields[name] or None for name in RunSettings.model_fields if name in fields
    }
    if "filters" in found:
        found["filters"] = json.loads(found["filters"])
    return RunSettings.model_validate(found, **TOLERANT)


def offered_figures(pair: Pair) -> str:
    """What `offer_pair.lua` judges and counts the pair by, as JSON."""
    values = pair_figures(pair)
    threshold = pair.settings.get("similarity_threshold")
    reasons = (pair.chosen_finish_reason, pair.rejected_finish_reason)
    return json.dumps(
        {
            "outcome": outcome_of_texts(pair.chosen[0].text, pair.rejected[0].text),
            "values": values,
            "buckets": {name: bucket(name, value) for name, value in values.items()},
            "finish_reasons": [reason for reason in reasons if reason is not None],
            "similar": pair.similarity is not None
            and isinstance(threshold, int | float)
            and pair.similarity >= threshold,
        }
    )


def counts_of(what: str, fields: dict[str, str]) -> dict[str, int]:
    """The counters `<what>:<name>` of a run, by name."""
    prefix = f"{what}:"
    return {
        name.removeprefix(prefix): int(count)
        for name, count in sorted(fields.items())
        if name.startswith(prefix)
    }


def distributions(figures: dict[str, str]) -> dict[str, Distribution]:
    """Of each figure that is counted."""
    found: dict[str, Distribution] = {}
    for name, edges in EDGES.items():
        if name not in figures:
            continue
        ends = [*edges, None]
        counts = [int(figures.get(f"{name}:{place}", 0)) for place in range(len(ends))]
        found[name] = Distribution(
            count=sum(counts),
            mean=float(figures[name]) / sum(counts),
            buckets=[Bucket(le=le, count=count) for le, count in zip(ends, counts, strict=True)],
        )
    return found


DEFAULT_SETTINGS = settings_fields(RunSettings())
"""Of a run that nobody has made before its first job."""


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _pair_key(run: str, pair_id: str) -> str:
    return _sha256(f"pair\n{run}\n{pair_id}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
