"""Problem details (RFC 9457)."""

from typing import Any

from pydantic import JsonValue

from service.schemas.base import Model


class Problem(Model):
    """RFC 9457 problem details, the body of every 4xx and 5xx."""

    type: str = "about:blank"
    """A URI of the kind of problem; `about:blank`, for `code` says it."""
    title: str
    """The status in words, such as `Not Found`."""
    status: int
    """The answer's status."""
    detail: str
    """What was wrong, where, and what to do: for people."""
    code: str
    """Which problem: stable and machine-readable, such as `window_full`."""
    errors: list[dict[str, Any]] | None = None
    """For 422: each refused field with its place and the reason."""
    job_id: str | None = None
    """The job that the request waited for, and that did not succeed."""
    details: dict[str, JsonValue] | None = None
    """That job's `error.details`."""
