"""How the processes log: lines for people on a terminal, one JSON object a line everywhere else.

What a worker logs about a job carries its `job`, `run`, `attempt` and `version`, bound to the job's
task with `structlog.contextvars`.
"""

import logging
import sys

import structlog
from structlog.typing import Processor

from service import tracing

SHARED_PROCESSORS: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    tracing.add_trace_ids,
]


def configure() -> None:
    """Called once, by a command; libraries and tests are left alone. What other libraries log goes
    the same way, from warnings on."""
    structlog.configure(
        processors=[*SHARED_PROCESSORS, *_rendering()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def formatter() -> logging.Formatter:
    """For what is logged through the standard library, in processes of other people's too."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*SHARED_PROCESSORS, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering()],
    )


def is_interactive() -> bool:
    return sys.stderr.isatty()


def _rendering() -> list[Processor]:
    if is_interactive():
        # Without local variables, among which are keys and whole requests.
        plain = structlog.dev.RichTracebackFormatter(show_locals=False)
        return [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
