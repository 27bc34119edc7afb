"""What `prefstream inspect` says of a checkpoint, as `--json` prints it."""

from typing import Any

from pydantic import Field

from service.schemas import InputDigest, Message
from service.schemas.base import Model


class Finding(Model):
    """Something wrong with a checkpoint, or worth knowing."""

    code: str
    """A word for programs, such as `no_chat_template`."""
    message: str
    """What was found, and where."""
    remedy: str | None = None
    """What to do about it."""


class Tokens(Model):
    """A piece of text as the model sees it."""

    ids: list[int]
    """Token ids."""
    tokens: list[str]
    """The text of each, as the tokenizer's vocabulary has it."""


class Example(Model):
    """A conversation on both sides: as the policy is asked, and as the trainer trains on it."""

    name: str
    """`one turn`, `two turns` or `system prompt`."""
    conversation: list[Message]
    """What is asked."""
    answer: str
    """What is answered."""
    refused: str | None = None
    """Why it cannot be rendered; then all that follows is null."""
    prompt: Tokens | None = None
    """What a worker asks the policy, with one placeholder for each image."""
    trained_prompt: Tokens | None = None
    """What the trainer puts before the answer. Tokenizers that join an answer's first letters to
    what opens the turn make it shorter than `prompt`."""
    trained_answer: Tokens | None = None
    """What the trainer trains on, with the end of the turn."""
    end: str | None = None
    """The token that ends the answer; null: it has none."""


class ImageTokens(Model):
    """k of a picture: how many places it takes in a sequence."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    tokens: int
    """Image tokens, by the checkpoint's processor."""
    features: int | None = None
    """Of the picture, by the model itself, which must be as many; null: not judged."""


class Template(Model):
    """The chat template."""

    source: str
    """Where it came from: a file, or whose it is."""
    text: str
    """Jinja."""


class WeightFiles(Model):
    """The files of a folder's weights. They are not read, but for their headers."""

    files: int
    """How many are there."""
    bytes: int
    """Their size."""
    dtypes: list[str] = Field(default=[])
    """Kinds of numbers in them, as safetensors names them, such as `BF16`."""


class Serving(Model):
    """What workers make of it."""

    proven: bool
    """Tests hold that its image tokens are left out as transformers would have it."""
    lora_target_modules: list[str] | None
    """Last parts of the names of the layers that adapters may be of: the language model's linear
    layers; null: not judged."""
    head_size: int | None
    """Of the language model's attention; null: its configuration does not say."""


class Training(Model):
    """What a trainer would train."""

    lora_rank: int
    """The trainer's default rank."""
    lora_layers: int | None
    """Linear layers that would get an adapter; null: it cannot be trained so."""
    lora_parameters: int | None
    """Of the adapter, at that rank."""
    full_parameters: dict[str, int] | None
    """With `--train full`, of each part that can be named; null: it cannot be trained so."""


class CheckpointReport(Model):
    """A checkpoint, as prefstream understands it."""

    model: str
    """The name that was asked for."""
    folder: str
    """Where it was found: a folder, or a name on the hub."""
    architecture: str | None
    """As its config.json names it; null: it names none."""
    chat_template_kwargs: dict[str, Any]
    """Variables of the chat template that were given."""
    mm_processor_kwargs: dict[str, Any]
    """Arguments of the processor of pictures that were given."""
    chat_template: Template | None = None
    """Null: it has none."""
    image_token: str | None = None
    """The placeholder of an image."""
    ends: list[str] = Field(default=[])
    """Tokens at which the model stops."""
    examples: list[Example] = Field(default=[])
    """Conversations on both sides."""
    image_tokens: list[ImageTokens] = Field(default=[])
    """k for some sizes of pictures."""
    weights: WeightFiles | None = None
    """Null: it is no local folder."""
    serving: Serving | None = None
    """Null: not judged."""
    training: Training | None = None
    """Null: not judged."""
    digest: InputDigest | None = None
    """Of its inputs: workers and trainers that share a run must have the same."""
    problems: list[Finding] = Field(default=[])
    """What is wrong: with any of these it does not work, or not as it should."""
    notes: list[Finding] = Field(default=[])
    """What is good to know."""
    not_judged: list[str] = Field(default=[])
    """What could not be looked at here, and why."""


def in_a_line(said: object) -> str:
    """What a library said, as a sentence: without line ends, up to its first empty line."""
    lines = str(said).strip().split("\n\n")[0].splitlines()
    text = " ".join(line.strip() for line in lines)
    return text if text.endswith((".", "?", "!")) else f"{text}."
