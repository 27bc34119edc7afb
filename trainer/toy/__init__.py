"""The shapes world and the small LLaVA-NeXT that was trained on it.

Importing this package costs nothing: it names the shipped checkpoint and loads no library.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder of the shipped policy: config, fp16 weights, tokenizer and processor (docs/toy.md)."""
