"""TRL trains on its exports as `load_dataset` opens them."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoProcessor, LlavaNextForConditionalGeneration
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from prefstream import export
from tests.servers import Server
from tests.trainer import pairs

STEPS = 2


@pytest.mark.parametrize(
    ("to", "trainer", "config"),
    [("trl", DPOTrainer, DPOConfig), ("trl-kto", KTOTrainer, KTOConfig)],
)
def test_it_trains_two_steps(
    to: str, trainer: Any, config: Any, server: Server, model: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    pairs.append(server.url, 4)
    out = tmp_path / "out"
    export(pairs.RUN, to=to, out=out, url=server.url)
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    policy = LlavaNextForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    before = policy.lm_head.weight.detach().clone()
    args = config(
        output_dir=str(tmp_path / "trained"),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        max_length=None,
        bf16=False,
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
    )
    training = trainer(
        model=policy,
        args=args,
        train_dataset=rows,
        processing_class=AutoProcessor.from_pretrained(model),
    )
    training.train()
    assert training.state.global_step == STEPS
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in losses(training))
    assert not torch.equal(before, policy.lm_head.weight)


def losses(training: Any) -> list[dict[str, float]]:
    found = [entry for entry in training.state.log_history if "loss" in entry]
    assert len(found) == STEPS
    return found
