"""Lua scripts and the functions that stand for them."""

import pytest

from service.broker.scripts import Script, script


def test_a_header_that_differs_from_the_function_fails_at_import() -> None:
    with pytest.raises(ValueError, match=r"claims/fail\.lua takes .*'problem'.*'error'"):

        @script("claims/fail.lua")
        def _fail(job_id: str, fence: int, error: str) -> int: ...


def test_arguments_are_locals_and_the_rest_is_a_table() -> None:
    def function(run: str, *leases: str) -> None: ...

    made = Script("x.lua", "-- ARGV: run, leases...\n-- include: count_waiting.lua\n", function)
    assert "local run = ARGV[1]\nlocal leases = {}\nfor i = 2, #ARGV do" in made.text
    order = [made.text.index(f"local function {name}(") for name in ("now", "group_key")]
    assert order == sorted(order)
    assert made.text.index("local function count_waiting(") > order[-1]
    assert made.arguments(run="r") == ("r",)
