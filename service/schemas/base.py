"""What all models of the wire share: names, bounds, and how what is unknown is met.

A request is read strictly: an unknown field or value is an error, so that a misspelt setting is not
a silent default. An answer, or data that was stored, may come from a later version of the service:
it is read with `TOLERANT`, so that a rolling upgrade can go in any order.
"""

from typing import Annotated, Any, Literal, TypedDict

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StringConstraints,
    ValidationInfo,
)

RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A run's name: letters, digits, dot, underscore, hyphen; at most 64 characters."""

GroupName = RunName
"""A subscriber group's name, as a run's."""

AnnotatorName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._-]{0,63}$")]

MAX_SEED = 2**63 - 1

MAX_VERSION = 2**53
"""Of the weights: the largest integer that Redis' scripts count exactly."""

MAX_RANKED = 8
"""Responses that an annotator ranks, at most: it compares every two of them."""


class Model(BaseModel):
    """A model of the wire. NaN and infinity are no numbers.

    Where an answer's field takes some known values, its type is `Known | str`: a value of a later
    version is a string like any other.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class _Tolerant(TypedDict):
    extra: Literal["ignore"]
    context: Any


TOLERANT: _Tolerant = {"extra": "ignore", "context": "tolerant"}
"""How answers and stored data are read: `Job.model_validate_json(text, **TOLERANT)`. Unknown fields
are passed over, at every depth, and unknown values (see `one_of`) kept as they are."""


def one_of(*values: str) -> AfterValidator:
    """For a field that stands in requests as well as in answers: one of `values`, or any string
    when read with `TOLERANT`."""

    def check(value: str, info: ValidationInfo) -> str:
        if value not in values and info.context != TOLERANT["context"]:
            raise ValueError(f"{value!r} is none of {', '.join(values)}")
        return value

    return AfterValidator(check)
