"""Runs: a name, settings, and an append-only log of pairs.

A pair's place in the log is the id of its stream entry, `<position>-<nonce>`. Positions are dense
from 1; the nonce is chance. A cursor is `<epoch>.<position>-<nonce>`, so a log that was lost, or
that went back and grew anew, no longer matches the cursors read from the old one.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from service.broker.errors import (
    RETRY_AFTER_S,
    BadCursor,
    ImageGone,
    LogChanged,
    LogTrimmed,
    PairConflict,
    RunBusy,
    WindowFull,
)
from service.broker.store import Script, Store, moment, new_epoch, new_nonce
from service.schemas import (
    Appended,
    Group,
    Pair,
    PairRequest,
    PairsPage,
    Run,
    RunSettings,
)

CANCELLED_AT_ONCE = 500
"""Jobs that one step of a forced deletion cancels; a longer one would hold the server up."""

GROUPS = """
local function group_key(run, group) return run_key(run) .. ':group:' .. group end
local function position_of(place) return tonumber(string.match(place or '0', '^%d+')) end

-- Deletes all that is known of a group.
local function forget(run, group)
  local parts = {'', ':unacked', ':again', ':aside', ':leases', ':held', ':tries', ':acked'}
  for _, part in ipairs(parts) do
    redis.call('UNLINK', group_key(run, group) .. part)
  end
  return redis.call('SREM', run_key(run) .. ':groups', group)
end

-- Drops the log up to a position, that one included.
local function cut(run, position)
  local last = redis.call('XRANGE', run_key(run) .. ':log', position, position)[1]
  if not last then return end
  redis.call('XTRIM', run_key(run) .. ':log', 'MINID', position + 1)
  redis.call('HSET', run_key(run), 'trimmed', last[1])
end
"""

WAITING = (
    GROUPS
    + """
-- Pairs that a group has neither taken nor set aside.
local function waiting(run, group)
  local state = redis.call('HMGET', run_key(run), 'pairs', 'trimmed')
  local key = group_key(run, group)
  local taken = math.max(redis.call('HGET', key, 'taken') or 0, position_of(state[2]))
  return state[1] - taken - redis.call('ZCOUNT', key .. ':aside', taken + 1, '+inf')
end
"""
)

APPEND_PAIR = (
    GROUPS
    + """
local function append_pair(run, pair, images, version, nonce)
  local position = redis.call('HINCRBY', run_key(run), 'pairs', 1)
  local place = position .. '-' .. nonce
  redis.call('XADD', run_key(run) .. ':log', place, 'pair', pair, 'images', images,
    'version', version)
  redis.call('HSET', run_key(run), 'last', place)
  local state = redis.call('HMGET', run_key(run), 'retention', 'trimmed')
  local retention = tonumber(state[1] or '')
  if retention and position - retention > position_of(state[2]) then
    cut(run, position - retention)
  end
  touch_images(images)
  ring('run:' .. run)
end
"""
)

APPEND = Script(
    WAITING
    + APPEND_PAIR
    + """
local run, pair, images, nonce, key, fingerprint, epoch, run_settings = unpack(ARGV)
make_run(run, epoch, run_settings)
local epoch = redis.call('HGET', run_key(run), 'epoch')
local first = redis.call('HMGET', NS .. ':key:' .. key, 'epoch', 'fingerprint')
if first[1] == epoch then return {first[2] == fingerprint and 'known' or 'conflict'} end
local window = tonumber(redis.call('HGET', run_key(run), 'window'))
local used = redis.call('ZCARD', run_key(run) .. ':open') + waiting(run, 'trainer')
if used >= window then return {'window', used, window} end
for ref in string.gmatch(images, '%S+') do
  if not redis.call('ZSCORE', NS .. ':images', ref) then return {'image', ref} end
end
append_pair(run, pair, images, '', nonce)
redis.call('HSET', NS .. ':key:' .. key, 'epoch', epoch, 'fingerprint', fingerprint)
redis.call('PEXPIRE', NS .. ':key:' .. key, IDEMPOTENCY_TTL_MS)
return {'new'}
"""
)

PUT = Script("""
local run, epoch, settings = unpack(ARGV)
make_run(run, epoch, settings)
redis.call('HSET', run_key(run), unpack(cjson.decode(settings)))
""")

GET = Script(
    WAITING
    + """
local run = ARGV[1]
local key = run_key(run)
if redis.call('EXISTS', key) == 0 then return false end
local groups = {}
for _, group in ipairs(redis.call('SMEMBERS', key .. ':groups')) do
  local g = group_key(run, group)
  local returned = redis.call('ZCARD', g .. ':again')
  local leased = redis.call('ZCARD', g .. ':unacked') - returned
  groups[#groups + 1] = {group, waiting(run, group), leased, returned,
    redis.call('HMGET', g, 'acknowledged', 'stale', 'missed', 'redelivered')}
end
local oldest = redis.call('ZRANGE', key .. ':open', 0, 0, 'WITHSCORES')[2] or ''
return {redis.call('HGETALL', key), redis.call('ZCARD', key .. ':open'),
  redis.call('SCARD', key .. ':running'), oldest, groups}
"""
)

DELETE = Script(
    GROUPS
    + """
local run, force, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local key = run_key(run)
if redis.call('EXISTS', key) == 0 then return {'no run'} end
local groups, leases = redis.call('SMEMBERS', key .. ':groups'), 0
for _, group in ipairs(groups) do
  leases = leases + redis.call('ZCOUNT', group_key(run, group) .. ':leases', now(), '+inf')
end
local open = redis.call('ZCARD', key .. ':open')
if force == '0' and open + leases > 0 then return {'busy', open, leases} end
if open > 0 then
  for _, id in ipairs(redis.call('ZRANGE', key .. ':open', 0, limit - 1)) do
    conclude(id, 'cancelled')
  end
  ring('lost')
  if open > limit then return {'more'} end
end
for _, group in ipairs(groups) do forget(run, group) end
redis.call('UNLINK', key, key .. ':log', key .. ':groups')
redis.call('SREM', NS .. ':runs', run)
ring('run:' .. run)
return {'deleted'}
"""
)

READ = Script("""
local run, after, limit = ARGV[1], ARGV[2], ARGV[3]
local state = redis.call('HMGET', run_key(run), 'epoch', 'last', 'trimmed')
local place = {}
if after ~= '' then
  local position = string.match(after, '^%d+')
  place = redis.call('XRANGE', run_key(run) .. ':log', position, position)
end
local from = after == '' and '-' or '(' .. after
local entries = redis.call('XRANGE', run_key(run) .. ':log', from, '+', 'COUNT', limit)
return {state[1], state[2] or '0-0', state[3] or '0-0', place[1] and place[1][1] or '', entries}
""")


class Runs:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, name: str, settings: RunSettings) -> Run:
        """Creates the run, or changes the settings of one that exists."""
        await self._store.run(PUT, name, new_epoch(), settings_fields(settings))
        run = await self.get(name)
        return run or await self.put(name, settings)  # deleted in this very moment

    async def get(self, name: str) -> Run | None:
        reply = await self._store.run(GET, name)
        if reply is None:
            return None
        flat, open_jobs, running_jobs, oldest, groups = reply
        fields: dict[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))
        return Run(
            name=name,
            settings=RunSettings.model_validate(
                {key: fields[key] or None for key in RunSettings.model_fields if key in fields}
            ),
            epoch=fields["epoch"],
            open_jobs=open_jobs,
            running_jobs=running_jobs,
            oldest_open_at=moment(oldest) if oldest else None,
            dead_jobs=int(fields.get("dead", 0)),
            pairs=int(fields["pairs"]),
            ties=int(fields.get("ties", 0)),
            unreadable=int(fields.get("unreadable", 0)),
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
                )
                for group, waiting, leased, returned, counts in sorted(groups)
            ],
        )

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
        outcome, *rest = await self._store.run_durably(
            APPEND,
            name,
            pair.model_dump_json(),
            " ".join(dict.fromkeys(pair.images)),
            new_nonce(),
            _sha256(f"pair\n{name}\n{pair_id}"),
            _sha256(request.model_dump_json()),
            new_epoch(),
            DEFAULTS,
        )
        match outcome:
            case "window":
                raise WindowFull(name, rest[0], int(rest[1]), RETRY_AFTER_S)
            case "image":
                raise ImageGone(rest[0])
            case "conflict":
                raise PairConflict(name, pair_id)
            case _:
                return Appended(run=name, pair_id=pair_id, repeated=outcome == "known")

    async def names(self) -> list[str]:
        return sorted(await self._store.command("SMEMBERS", self._store.key("runs")))

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Deletes the run, with its log and its groups, at once. `force` cancels its open jobs
        first, some hundreds at a time, and ends its leases.

        Its dead letters and ended jobs stay, and images go when nothing else names them. Raises:
        KeyError (no such run), RunBusy.
        """
        while True:
            outcome, *figures = await self._store.run(DELETE, name, int(force), CANCELLED_AT_ONCE)
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
        epoch, last, trimmed, found, entries = await self._store.run(READ, name, place, limit)
        if epoch is None:
            raise KeyError(name)
        if cursor is not None:
            cursor.check(name, epoch, last, trimmed, found)
        pairs = [Pair.model_validate_json(pair_field(fields)) for _, fields in entries]
        end = entries[-1][0] if entries else place or trimmed
        return PairsPage(pairs=pairs, cursor=str(Cursor(epoch, end)))


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

    def check(self, run: str, epoch: str, last: str, trimmed: str, found: str) -> None:
        """Raises if the log is not the one this cursor was read from.

        `found` is the place of the pair that has this position now, empty if there is none.
        """
        if self.epoch != epoch:
            raise LogChanged(run, str(self), f"the run was made anew (its epoch is {epoch})")
        if self.position > position_of(last):
            raise LogChanged(run, str(self), f"the log went back to position {position_of(last)}")
        if self.position < position_of(trimmed):
            raise LogTrimmed(run, str(self), position_of(trimmed) - self.position)
        place = found or (trimmed if self.position == position_of(trimmed) else "")
        if place and place != self.place:
            raise LogChanged(run, str(self), "the log went back, and grew anew past that position")


def position_of(place: str) -> int:
    return int(place.partition("-")[0])


def pair_field(fields: list[Any]) -> str:
    return fields[fields.index("pair") + 1]


def settings_fields(settings: RunSettings) -> str:
    """The settings as a JSON list of alternating names and values, all text, for HSET."""
    flat: list[str] = []
    for name, value in settings.model_dump(mode="json").items():
        flat += [name, "" if value is None else str(value)]
    return json.dumps(flat)


DEFAULTS = settings_fields(RunSettings())
"""Of a run that nobody has made before its first job."""


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
