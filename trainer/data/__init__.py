"""Data sets of preferences about images, in the formats in which they are published."""

from trainer.data.example import SECOND_REJECTED, Example, InvalidDataset, InvalidRow
from trainer.data.reader import FORMATS, TOY, read

__all__ = ["FORMATS", "SECOND_REJECTED", "TOY", "Example", "InvalidDataset", "InvalidRow", "read"]
