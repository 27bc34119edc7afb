"""Is it well?   python -m service.healthcheck URL

Ends with 0 if the URL answers with a success. For health checks in containers, which have no curl;
light, because they ask often.
"""

import sys
import urllib.error
import urllib.request

from service.loopback import is_loopback

TIMEOUT_S = 12.0


def main() -> None:
    [url] = sys.argv[1:]
    try:
        proxies = urllib.request.ProxyHandler({} if is_loopback(url) else None)
        with urllib.request.build_opener(proxies).open(url, timeout=TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {error.read(1000).decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
