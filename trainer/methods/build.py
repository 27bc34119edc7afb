"""The trainer of given settings: the policy, what it is compared with, and TRL's arguments."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText
from trl.trainer.dpo_config import DPOConfig

from service import model_names
from service.checkpoints.input_processor import InputProcessor
from trainer.methods.collator import RowCollator
from trainer.methods.losses import loss_arguments
from trainer.methods.stream_trainer import StreamTrainer
from trainer.settings import TrainerSettings
from trainer.stream.data_loader import PairDataLoader
from trainer.weights import full_weights
from trainer.weights.adapter import lora_config


def build_trainer(
    settings: TrainerSettings,
    data_loader: PairDataLoader,
    inputs: InputProcessor,
    processes: int = 1,
    resumed: Path | None = None,
) -> StreamTrainer:
    """The trainer; `resumed`: the checkpoint that it goes on from, if any.

    Raises: UnservableWeights.
    """
    return StreamTrainer(
        data_loader,
        args=_arguments(settings, data_loader.device_batch_size, processes),
        processing_class=inputs.processor,
        data_collator=RowCollator(inputs),
        **_models(settings, resumed),
    )


def _models(settings: TrainerSettings, resumed: Path | None) -> dict[str, Any]:
    """The policy, and what it is compared with.

    With an adapter, the reference is the policy under a disabled one. For full weights it is a
    frozen copy of the policy's start; the policy itself comes from `resumed`, if there is one.
    """
    name, dtype = model_names.resolve_model(settings.model), weights_dtype(settings)
    if settings.train == "full":
        policy = AutoModelForImageTextToText.from_pretrained(resumed or name, dtype=torch.float32)
        full_weights.set_trainable(policy, settings.parts or ())
        reference = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
        return {
            "model": policy,
            "ref_model": reference.requires_grad_(False),
            "projector_learning_rate": settings.projector_learning_rate,
        }
    policy = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
    adapter = lora_config(
        policy,
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        target_modules=settings.target_modules,
    )
    return {"model": policy, "peft_config": adapter}


def _arguments(settings: TrainerSettings, device_batch_size: int, processes: int) -> DPOConfig:
    passes = settings.batch_size // processes // device_batch_size
    return DPOConfig(
        output_dir=str(settings.output),
        **loss_arguments(settings),
        max_length=None,  # a cut would go through the image's tokens
        max_steps=settings.steps,
        per_device_train_batch_size=device_batch_size,
        gradient_accumulation_steps=passes * (2 if settings.method == "averaged" else 1),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=(
            "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
        ),
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=weights_dtype(settings) == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        # Every adapter takes part in every pass; a tower's last layers take part in none.
        ddp_find_unused_parameters=settings.train == "full",
        ignore_data_skip=True,  # a resumed stream goes on where it was
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        save_total_limit=None,  # ours are removed when a newer one counts
        logging_steps=settings.log_every,
        report_to=["tensorboard"],
        disable_tqdm=False,
    )


def weights_dtype(settings: TrainerSettings) -> torch.dtype:
    """Of weights that do not learn, and of full weights as they are published."""
    half = settings.dtype == "bfloat16" or (
        settings.dtype == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    return torch.bfloat16 if half else torch.float32
