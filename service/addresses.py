"""Addresses as users give them: checked before they are used, and told without their passwords."""

import re
from urllib.parse import urlsplit

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def check_redis_url(url: str) -> None:
    """Raises: ValueError, which repeats nothing of the address: it may hold a password, and where
    that begins is what one cannot know."""
    if not url.startswith(REDIS_SCHEMES):
        raise ValueError(f"must start with one of {', '.join(REDIS_SCHEMES)}")
    if url.startswith("unix://"):
        return
    why = _what_is_wrong(url)
    if why is None:
        return
    hint = ""
    if "@" in url:
        hint = (
            " If the user name or the password has characters such as # / ? [ ] % or @, write them "
            "percent-encoded, %23 for #: python3 -c 'from urllib.parse import quote; "
            "print(quote(input(), safe=str()))' encodes what it is given."
        )
    raise ValueError(f"must be redis://[[user]:password@]host[:port][/database]; {why}.{hint}")


def _what_is_wrong(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "host or port cannot be read"
    if not parts.hostname:
        return "it has no host"
    if parts.fragment or "#" in url:
        return "it has a #"
    if not re.fullmatch(r"/?|/\d+", parts.path):
        return "after the host there is something else than the number of a database"
    if any("=" not in option for option in parts.query.split("&") if option):
        return "after a ? it has something else than options, name=value"
    return None


def without_password(url: str) -> str:
    """For messages."""
    return re.sub(r"(?<=://).*@", "…@", url, flags=re.DOTALL)
