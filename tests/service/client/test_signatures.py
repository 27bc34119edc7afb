"""`Client` and `AsyncClient` have the same calls, with the same arguments."""

import inspect
import re

from service.client import AsyncClient, AsyncLeasedBatch, Client, LeasedBatch


def calls(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def without_awaiting(annotation: object) -> str:
    """The annotation as the blocking client has it."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"[\w.]+\.(?=\w)", "", text)
    return text.replace("AsyncGenerator", "Iterator").replace("AsyncLeasedBatch", "LeasedBatch")


def equal(awaited: inspect.Signature, blocking: inspect.Signature) -> bool:
    parameters = [
        [(p.name, p.kind, p.default, p.annotation) for p in list(s.parameters.values())[1:]]
        for s in (awaited, blocking)
    ]
    returned = [without_awaiting(s.return_annotation) for s in (awaited, blocking)]
    return parameters[0] == parameters[1] and returned[0] == returned[1]


def test_the_clients_have_equal_signatures() -> None:
    awaited, blocking = calls(AsyncClient), calls(Client)
    assert awaited.keys() == blocking.keys()
    assert {name for name in awaited if not equal(awaited[name], blocking[name])} == set()


def test_leased_batches_have_the_same_calls() -> None:
    awaited, blocking = calls(AsyncLeasedBatch), calls(LeasedBatch)
    del awaited["__init__"], blocking["__init__"]
    assert awaited.keys() == blocking.keys() == {"ack", "nack"}
