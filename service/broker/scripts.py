"""Lua scripts, each a file under `lua/` with a Python function that says what it takes and answers.

    @script("claims/fail.lua")
    def _fail(job_id: str, fence: int, problem: str) -> int: ...

A script's file begins with a header: `-- ARGV: job_id, fence, problem` names its arguments
(`ids...` is the rest, as a table), `-- include: lanes.lua` names shared parts that it needs. Header
and function are compared at import. The arguments are Lua locals of the script, always as text.
"""

import inspect
from collections.abc import Callable
from importlib import resources
from itertools import takewhile
from typing import Generic, ParamSpec, TypeVar, cast

from service.broker.pipeline import Argument

P = ParamSpec("P")
R = TypeVar("R")

FOLDER = resources.files("service.broker").joinpath("lua")


class Script(Generic[P, R]):
    """Lua that the server runs as one step; `Connection.run` calls it.

    Raises: ValueError if the file's header names other arguments than the function has.
    """

    def __init__(self, path: str, text: str, function: Callable[P, R]) -> None:
        self.path = path
        self._signature = inspect.signature(function)
        names = [
            parameter.name + "..." * (parameter.kind is parameter.VAR_POSITIONAL)
            for parameter in self._signature.parameters.values()
        ]
        if names != header(text, "ARGV"):
            raise ValueError(f"{path} takes {header(text, 'ARGV')}, and its function {names}")
        parts: dict[str, str] = {}
        for part in ("base.lua", *header(text, "include")):
            _include(part, parts)
        self.text = "\n".join([*parts.values(), _locals(names), text])

    def arguments(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Argument, ...]:
        """The arguments in the script's order."""
        bound = self._signature.bind(*args, **kwargs).args if kwargs else args
        return cast(tuple[Argument, ...], bound)


def script(path: str) -> Callable[[Callable[P, R]], Script[P, R]]:
    """The script in a file of `lua/`, with the arguments and the answer of the function."""

    def of(function: Callable[P, R]) -> Script[P, R]:
        return Script(path, FOLDER.joinpath(path).read_text(), function)

    return of


def header(text: str, name: str) -> list[str]:
    """What the comments at the top of a file list under a name."""
    prefix = f"-- {name}:"
    comments = takewhile(lambda line: line.startswith("--"), text.splitlines())
    lists = [line.removeprefix(prefix) for line in comments if line.startswith(prefix)]
    return [word for line in lists for word in line.replace(",", " ").split()]


def _include(path: str, parts: dict[str, str]) -> None:
    """Adds a shared part, each once and after those that it needs itself."""
    text = FOLDER.joinpath(path).read_text()
    for needed in header(text, "include"):
        _include(needed, parts)
    parts.setdefault(path, text)


def _locals(names: list[str]) -> str:
    lines = [
        f"local {name} = ARGV[{i}]" for i, name in enumerate(names, 1) if not name.endswith("...")
    ]
    if names and names[-1].endswith("..."):  # by a loop: Lua's unpack takes no more than 8000
        rest = names[-1].removesuffix("...")
        lines.append(f"local {rest} = {{}}")
        lines.append(f"for i = {len(names)}, #ARGV do {rest}[#{rest} + 1] = ARGV[i] end")
    return "\n".join(lines)
