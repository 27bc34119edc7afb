"""The only room that talks to Redis or Valkey: `Broker`, and what its calls take, return and raise.

Every change of state is one Lua script (`lua/`), so it happens whole or not at all.
"""

from service.broker.broker import Broker
from service.broker.claims import KINDS, Claim
from service.broker.errors import (
    UNAVAILABLE,
    BadCursor,
    BrokerError,
    IdempotencyConflict,
    ImageGone,
    JobGone,
    LeaseLost,
    LogChanged,
    LogTrimmed,
    ModelConflict,
    NotDurable,
    PairConflict,
    QueueFull,
    RunBusy,
    ServerRefuses,
    UnknownScheme,
    UnusableServer,
    VersionNotNewer,
    VersionTooFar,
    VersionWithdrawn,
    WindowFull,
)
from service.broker.jobs import Event
from service.broker.notifications import wait_within
from service.broker.stats import Stats

__all__ = [
    "KINDS",
    "UNAVAILABLE",
    "BadCursor",
    "Broker",
    "BrokerError",
    "Claim",
    "Event",
    "IdempotencyConflict",
    "ImageGone",
    "JobGone",
    "LeaseLost",
    "LogChanged",
    "LogTrimmed",
    "ModelConflict",
    "NotDurable",
    "PairConflict",
    "QueueFull",
    "RunBusy",
    "ServerRefuses",
    "Stats",
    "UnknownScheme",
    "UnusableServer",
    "VersionNotNewer",
    "VersionTooFar",
    "VersionWithdrawn",
    "WindowFull",
    "wait_within",
]
