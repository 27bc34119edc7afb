"""The shapes world: questions with trusted answers, as many as are asked for (docs/toy.md).

Instruction data. The scene travels in the metadata, so that the annotator `toy` can judge by it.
"""

from collections.abc import Iterator

from service.schemas import user_turn
from trainer.data.example import Example
from trainer.toy.dataset import endless_examples, png


def examples() -> Iterator[Example]:
    for number, item in enumerate(endless_examples(), start=1):
        yield Example(
            messages=[user_turn(item.prompt, 1)],
            images=(png(item),),
            chosen=item.reference,
            metadata=item.metadata,
            key=f"{number}.0",
            place=f"toy, row {number}",
        )
