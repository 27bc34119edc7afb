"""What the broker refuses, and why. The API turns each into an answer; workers see a few."""

import math
from typing import Literal

from redis.exceptions import ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.schemas import InputDigest, WorkerInfo


class ServerRefuses(RedisConnectionError):
    """The server is there, and does not take writes: its disk fails, a script holds it up."""


REFUSALS = ("MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED")
"""How its answers begin then."""

ACL_FAILURE = "ACL failure in script"
"""In the answer of a script that called what its user may not."""

CLUSTER = (
    "The server is a node of a Redis Cluster, which prefstream does not support: its images would "
    "lie on other nodes. Give it one server, alone or with replicas; several namespaces may share "
    "it, or have one each."
)

UNAVAILABLE: tuple[type[Exception], ...] = (
    RedisConnectionError,  # loading and wrong passwords included
    RedisTimeoutError,
    ReadOnlyError,
    OutOfMemoryError,
    ClusterDownError,
    TryAgainError,
    OSError,
)
"""For `except`: the server is away, loading, read-only or full. Trying again may help. Any other
answer that is an error is a fault of ours, and belongs to nobody's retry."""


RETRY_AFTER_S = 1.0
"""What a caller is told to wait when the queue or a window is full."""


class Closed(RuntimeError):
    """A call on a broker or client that was closed, perhaps meanwhile."""

    def __init__(self) -> None:
        super().__init__("This client was closed; its calls are given up.")


class BrokerError(Exception):
    """A request the broker understood and refused."""

    code = "refused"


class UnusableServer(BrokerError):
    """The server, or what is in the namespace, is not for this program. Somebody has to do
    something; trying again does not help."""

    code = "unusable_server"


class QueueFull(BrokerError):
    code = "queue_full"

    def __init__(self, open_jobs: int, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"The queue holds {open_jobs} open jobs and takes at most {limit}. "
            f"Send this again in {retry_after_s:g} s."
        )
        self.retry_after_s = retry_after_s


class WindowFull(BrokerError):
    code = "window_full"

    retry_after_s = RETRY_AFTER_S

    def __init__(self, run: str, used: int, window: int, gating_group: str) -> None:
        """`gating_group`: empty if there is none."""
        untaken = (
            f" and pairs that group {gating_group!r} has not taken yet" if gating_group else ""
        )
        other = ", or name the group that takes its pairs as `gating_group` (null: none)"
        super().__init__(
            f"Run {run!r} has {used} open jobs{untaken}, and its window is {window}. Send this "
            f"again in {RETRY_AFTER_S:g} s, or widen the window with PUT /runs/{run}"
            f"{other if gating_group else ''}."
        )
        self.run = run


class RunBusy(BrokerError):
    code = "run_busy"

    def __init__(self, run: str, open_jobs: int, leases: int) -> None:
        super().__init__(
            f"Run {run!r} has {open_jobs} open jobs, and {leases} batches are under lease. Wait "
            f"until they have ended, or say force, which cancels the jobs and ends the leases."
        )


class IdempotencyConflict(BrokerError):
    code = "idempotency_conflict"

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"This idempotency key already stands for job {job_id}, whose body was another one. "
            "Use a new key for a new request."
        )
        self.job_id = job_id


class JobGone(BrokerError):
    """The job that an idempotency key stands for has ended, and is no longer kept."""

    code = "job_gone"

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"This idempotency key stands for job {job_id}, which has ended and is no longer kept. "
            "Its pairs are in the log of its run. To run it once more, use a new key."
        )
        self.job_id = job_id


class PairConflict(BrokerError):
    code = "pair_conflict"

    def __init__(self, run: str, pair_id: str) -> None:
        super().__init__(
            f"Run {run!r} was given another pair under the id {pair_id!r} before. Use a new id for "
            "a new pair."
        )


class ImageGone(BrokerError):
    code = "image_gone"

    def __init__(self, ref: str) -> None:
        super().__init__(
            f"No image {ref} is stored here (any more). Send its bytes again: in the request, or "
            "with POST /images."
        )
        self.ref = ref


class BadCursor(BrokerError):
    code = "bad_cursor"

    def __init__(self, cursor: str, name: Literal["after", "before"] = "after") -> None:
        """`name`: of the parameter that it was given in."""
        of_page = {"after": "cursor", "before": "before"}[name]
        super().__init__(
            f"{cursor!r} is no cursor. Pass the `{of_page}` of an earlier page as it was, or leave "
            f"`{name}` out to read from the start."
        )


class LogChanged(BrokerError):
    """A cursor or lease is of a log that is no more: the log was lost, or went back."""

    code = "log_changed"

    def __init__(self, run: str, position: str, why: str) -> None:
        super().__init__(
            f"The log of run {run!r} is not the one that {position!r} is of: {why}. Pairs are told "
            "apart by their `pair_id`: read the log from its start (leave `after` out), or lease "
            "anew."
        )


class VersionNotNewer(BrokerError):
    code = "version_not_newer"

    def __init__(self, version: int, newest: int, free: int) -> None:
        """`free`: the lowest number that may be announced."""
        super().__init__(
            f"Version {version} is not newer than version {newest}, which was announced before. "
            f"Versions only grow: announce {free} or above."
        )
        self.newest = newest


class VersionWithdrawn(BrokerError):
    code = "version_withdrawn"

    def __init__(self, version: int, free: int) -> None:
        """`free`: the lowest number that may be announced."""
        super().__init__(
            f"Version {version} was withdrawn. Pairs may name it, so its number is not used again: "
            f"announce {free} or above."
        )


class VersionTooFar(BrokerError):
    code = "version_too_far"

    def __init__(self, version: int, newest: int, max_step: int) -> None:
        super().__init__(
            f"Version {version} lies more than {max_step:,} above version {newest}, the newest. A "
            f"version is a count, and later ones must be above it: announce {newest + 1}."
        )


class UnknownScheme(BrokerError):
    code = "unknown_scheme"

    def __init__(self, scheme: str, location: str) -> None:
        super().__init__(
            f"No file system is known by {scheme}:// (location {location!r}), so no worker could "
            "read it: announce the path of a folder that all workers have, or an address such as "
            "s3://bucket/weights/12."
        )


class ModelConflict(BrokerError):
    """For a worker: others of its namespace serve another model, or prepare its inputs in another
    way."""

    code = "model_conflict"

    def __init__(
        self,
        namespace: str,
        model: str,
        input_digest: InputDigest | None,
        other: WorkerInfo,
        other_ttl_s: float,
    ) -> None:
        """`other_ttl_s`: seconds after which the other worker is forgotten if it is dead."""
        differs = ["model"] * (model != other.model)
        if input_digest is not None and other.input_digest is not None:
            differs += input_digest.differences(other.input_digest)
        super().__init__(
            f"This worker is for {model}, and worker {other.id} of the namespace {namespace!r} "
            f"serves {other.model}. One namespace serves one model, with one way to make its "
            f"inputs; these differ in: {', '.join(differs)}. Give this worker the same --model "
            "(the same files), --chat-template, PREFSTREAM_WORKER_CHAT_TEMPLATE_KWARGS and "
            "PREFSTREAM_WORKER_MM_PROCESSOR_KWARGS, or a namespace of its own with --namespace. To "
            "change a namespace's model, stop its workers first; if that one was killed, it is "
            f"forgotten in {max(1, math.ceil(other_ttl_s))} s."
        )


class NotDurable(BrokerError):
    """Under PREFSTREAM_DURABILITY=fsync: the server has it, but not surely on disk."""

    code = "not_durable"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The server did not confirm that the job is on disk: {why}. It may run all the same; "
            "send it again with the same Idempotency-Key."
        )


class LeaseLost(BrokerError):
    code = "lease_lost"

    def __init__(self, run: str, lease: str) -> None:
        super().__init__(
            f"Lease {lease!r} of run {run!r} has ended: it ran out, was handed back, or was never "
            "given. Its pairs are delivered again; renew leases in time (the client does)."
        )


class LogTrimmed(BrokerError):
    code = "log_trimmed"

    def __init__(self, run: str, cursor: str, lost: int) -> None:
        super().__init__(
            f"{lost} pairs of run {run!r} that follow cursor {cursor!r} have been trimmed. "
            "Leave `after` out to go on with the oldest pair that is kept."
        )
