"""What a model is asked that judges two responses; how its answer is read: `verdicts`.

The instructions follow those of the paper's annotator (arXiv 2407.02477), in our own words: truth
to the image first, then help, and nothing of what is not to be seen.
"""

from service.annotator import Case
from service.schemas import ImagePart, Message, Part, TextPart

MAX_TOKENS = 256
"""Of the judge's answer."""

INSTRUCTIONS = """\
You compare two responses to the same question about {images}. Look at what is shown first.

First comes truth. Every object, every attribute (colour, number, size, position, text) and every \
relation that a response states must be as it is shown. The response with fewer statements that \
are false, or that cannot be seen, is better. What is not clearly visible is better left out than \
guessed.
Second comes help. Between responses that are equally true, the one that answers the question \
more fully and to the point is better. Remarks that have nothing to do with the question count \
against a response, and length alone counts for nothing.
In which order the responses stand means nothing.
{before}
Question:
{question}

Response 1:
{first}

Response 2:
{second}

Write only "Response 1", "Response 2" or "Tie" on the first line: the better response. On the \
second line give the reason in one or two sentences."""


def comparison_message(case: Case) -> Message:
    """The judge's only turn: all of the case's images, then the text."""
    count = len(case.images)
    images = "an image" if count == 1 else f"{count} images" if count else "no image"
    *earlier, last = case.conversation
    before = ""
    if earlier:
        turns = "\n".join(f"{turn.role}: {_text(turn)}" for turn in earlier)
        before = f"\nWhat was said before the question:\n{turns}\n"
    text = INSTRUCTIONS.format(
        images=images,
        before=before,
        question=_text(last),
        first=case.first.strip(),
        second=case.second.strip(),
    )
    parts: list[Part] = [ImagePart() for _ in range(count)]
    return Message(role="user", content=[*parts, TextPart(text=text)])


def _text(turn: Message) -> str:
    return " ".join(part.text for part in turn.parts if isinstance(part, TextPart))
