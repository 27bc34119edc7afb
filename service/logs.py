"""How the processes log: lines for people on a terminal, JSON everywhere else."""

import sys

import structlog


def configure() -> None:
    """Called once, by a command. Libraries and tests are left alone."""
    on_terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer()
            if on_terminal
            else structlog.processors.format_exc_info,
            *([] if on_terminal else [structlog.processors.JSONRenderer()]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
