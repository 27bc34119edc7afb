"""Whether workers make the same tokens and pixels of a pair as this trainer does."""

from service.schemas import InputDigest
from trainer.settings import InvalidSettings

REMEDIES = {
    "chat_template": "`chat_template` and `chat_template_kwargs`",
    "tokenizer": "`model`",
    "processor": "`model` and `mm_processor_kwargs`",
}
"""Field of a digest → the settings that it follows from."""


class DifferentInputs(InvalidSettings):
    """Trained on these pairs, the policy would learn other sequences than it is asked for."""

    def __init__(self, whose: str, fields: list[str]) -> None:
        """`whose` inputs; `fields` of the digest in which they differ."""
        settings = "; ".join(REMEDIES[field] for field in fields)
        super().__init__(
            f"{whose} with another {' and another '.join(f.replace('_', ' ') for f in fields)} "
            f"than this trainer has. Give worker and trainer the same {settings}, and a run of "
            "pairs that were made so. `prefstream inspect MODEL`, on both machines, shows what "
            "each makes of the model."
        )


def check_digest(ours: InputDigest, theirs: InputDigest | None, whose: str) -> None:
    """Raises: DifferentInputs. An older release, or a data set, says nothing of its inputs."""
    fields = ours.differences(theirs) if theirs else []
    if fields:
        raise DifferentInputs(whose, fields)
