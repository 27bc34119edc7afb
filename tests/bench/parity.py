"""How far the trainer's log-probabilities are from the engine's, in a dtype: what training logs.

python -m tests.bench.parity [float32|bfloat16]
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForImageTextToText

from service.checkpoints.input_processor import load_input_processor
from tests.parity.test_parity import CHECKPOINTS, CONVERSATIONS, sampled_row, trainer_logps
from trainer.methods.collator import RowCollator
from trainer.settings import TrainerSettings
from worker.engine import Engine
from worker.settings import WorkerSettings

TOKENS = 64
"""Of a side, at most; two sides of each conversation."""

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


async def differences(name: str, dtype: str) -> list[float]:
    """Of each sampled token of all conversations, in nats."""
    folder = CHECKPOINTS[name](Path(tempfile.mkdtemp()))
    engine = Engine(
        WorkerSettings(
            model=str(folder),
            dtype=dtype,
            enforce_eager=True,
            max_lora_rank=16,
            engine_args={"limit_mm_per_prompt": {"image": 2}},
        )
    )
    await engine.start()
    try:
        collate = RowCollator(load_input_processor(str(folder), TrainerSettings()))
        weights = getattr(torch, dtype)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=weights).eval()
        found: list[float] = []
        for conversation in CONVERSATIONS.values():
            row = await sampled_row(engine, conversation, max_tokens=TOKENS)
            batch = collate([row])
            if "pixel_values" in batch:
                batch["pixel_values"] = batch["pixel_values"].to(weights)
            sampled = (row.pair.chosen_logprobs or [], row.pair.rejected_logprobs or [])
            for ours, theirs in zip(trainer_logps(model, batch), sampled, strict=True):
                found += [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        return found
    finally:
        engine.stop()


def main(dtype: str = "bfloat16") -> None:
    table = Table("", "tokens", "mean", "max", title=f"{dtype}: difference, nats")
    for name in CHECKPOINTS:
        found = asyncio.run(differences(name, dtype))
        mean = sum(found) / len(found)
        table.add_row(name, str(len(found)), f"{mean:.2e}", f"{max(found):.2e}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
