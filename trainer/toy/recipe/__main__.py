"""Trains the toy policy from scratch, in three stages.

    python -m trainer.toy.recipe --out DIR [--family qwen2_5_vl]

writes two checkpoints: DIR/grounded after the second stage, DIR/biased after the third. Takes 10 to
12 minutes on two CPU cores, for the Qwen2.5-VL about twice that. Stages are bounded by steps, not
by the clock, and every draw is seeded: the same machine gives the same weights. docs/toy.md tells
the reasons.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console

from trainer.toy.dataset import stream
from trainer.toy.recipe.family import FAMILIES, LLAVA_NEXT
from trainer.toy.recipe.measure import measure, report
from trainer.toy.recipe.model import save
from trainer.toy.recipe.stages import train_biased, train_grounded, train_vision_tower


def main() -> None:
    """Runs the three stages and reports the figures of the two models."""
    parser = argparse.ArgumentParser(description="Train the toy policy from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoints")
    parser.add_argument(
        "--family",
        choices=FAMILIES,
        default=LLAVA_NEXT.name,
        help="architecture (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and draws (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    console = Console()

    family = FAMILIES[arguments.family]
    tokenizer = family.build_tokenizer()
    processor = family.build_processor(tokenizer)
    model = family.build_model(tokenizer)
    console.print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    rng = stream("training", arguments.seed)
    _tell(console, "vision tower", train_vision_tower(model, processor, rng, family=family))
    _tell(console, "grounded", train_grounded(model, processor, rng, family=family))
    grounded = arguments.out / "grounded"
    save(model, processor, grounded)

    # From what the file holds and with a stream of its own: this stage can be repeated by itself.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    rng = stream("training", arguments.seed)
    _tell(console, "biased", train_biased(model, processor, rng, family=family))
    biased = arguments.out / "biased"
    save(model, processor, biased)
    console.print(report({"grounded": measure(grounded), "biased": measure(biased)}))


def _tell(console: Console, stage: str, losses: list[float]) -> None:
    console.print(f"{stage}: loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")


if __name__ == "__main__":
    main()
