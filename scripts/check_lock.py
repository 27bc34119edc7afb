"""Whether pip finds what requirements.lock names for each Python: python scripts/check_lock.py

    python scripts/check_lock.py [NAME …]       by default all that is built for one Python

Installs and downloads nothing: it asks pip, as it is set up here, which versions have a wheel. A
wheel that an index simply does not carry looks the same as one that nobody has built. Wheels that
serve every Python are not asked for; `tests/test_lock.py` reads in their metadata that they do.
"""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path

PYTHONS = ("3.11", "3.12", "3.13")
LOCK = Path(__file__).parents[1] / "requirements.lock"


def locked() -> dict[str, str]:
    """Name → version."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", LOCK.read_text(), re.MULTILINE))


def is_for_one_python(name: str) -> bool:
    """By the tags of the wheel that is installed here."""
    tags = re.findall(r"^Tag: (\w+)-(\w+)-", distribution(name).read_text("WHEEL") or "", re.M)
    return not any(python.startswith("py") or abi == "abi3" for python, abi in tags)


def has_wheel(name: str, version: str, python: str) -> bool:
    command = [sys.executable, "-m", "pip", "index", "versions", name]
    options = ["--only-binary", ":all:", "--python-version", python, "--pre"]
    answer = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    versions = re.search(r"^Available versions: (.*)$", answer.stdout, re.MULTILINE)
    return versions is not None and version in versions[1].split(", ")


def main() -> None:
    versions = locked()
    names = sys.argv[1:] or [name for name in versions if is_for_one_python(name)]
    complete = True
    for python in PYTHONS:
        with ThreadPoolExecutor(4) as pool:
            there = list(pool.map(lambda n, p=python: has_wheel(n, versions[n], p), names))
        missing = [f"{n}=={versions[n]}" for n, t in zip(names, there, strict=True) if not t]
        complete &= not missing
        print(f"Python {python}: pip finds {sum(there)} of {len(names)} wheels.", *missing)
    sys.exit(0 if complete else "Those named were not found.")


if __name__ == "__main__":
    main()
