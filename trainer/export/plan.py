"""What shall be exported, and how."""

from dataclasses import dataclass, field
from pathlib import Path

from service.schemas import PairFilters
from trainer.export.formats import FORMATS


class ExportError(Exception):
    """The export cannot begin, or not go on; its folder is as it was."""


@dataclass(frozen=True)
class ExportPlan:
    """What shall be exported, and how."""

    run: str
    to: str
    """A key of `FORMATS`."""
    out: Path
    where: PairFilters = field(default_factory=PairFilters)
    """Pairs beyond these are left out."""
    follow: bool = False
    """Go on as pairs come, until stopped, however long the service is away."""
    shard_rows: int = 20_000
    """Rows at which a shard is closed. A page of the log is never divided."""
    license: str | None = None
    origin: str | None = None
    """Where prompts, images and references come from: for the card."""

    def __post_init__(self) -> None:
        """Raises: ExportError."""
        if self.to not in FORMATS:
            raise ExportError(f"There is no format {self.to}: one of {', '.join(FORMATS)}.")
