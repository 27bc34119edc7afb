"""Words about what was sent, however much that was: for answers, logs and job errors."""

EXCERPT_CHARS = 500
"""Characters of an excerpt, about."""


def excerpt(text: str, limit: int = EXCERPT_CHARS) -> str:
    """The text; of a long one its start and its end, and how much was left out between."""
    if len(text) <= limit:
        return text
    left_out = len(text) - limit
    return f"{text[: limit // 2]} […{left_out} characters…] {text[len(text) - limit // 2 :]}"
