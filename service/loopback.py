"""Whether a URL is of this machine: then no proxy of the environment may carry what goes there.

HTTP_PROXY, HTTPS_PROXY and ALL_PROXY would: httpx and urllib spare the loopback only if NO_PROXY
names it.
"""

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx


def is_loopback(url: str) -> bool:
    """Names of the loopback, its addresses, and the one that stands for all of a machine's."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def direct_transport(url: str | None, limits: "httpx.Limits") -> "httpx.AsyncHTTPTransport | None":
    """What `httpx.AsyncClient` is to send with. None: its own, which minds the proxies.

    url: what the client is for; None: nothing, and then no setting of a proxy can be wrong.
    """
    import httpx  # here: `service.healthcheck` does without

    return httpx.AsyncHTTPTransport(limits=limits) if url is None or is_loopback(url) else None
