"""DPO in plain PyTorch on a live run.

python dpo_loop.py MODEL RUN URL STEPS
"""

import copy
import sys

import torch
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText, AutoProcessor

from prefstream import torch_dataset

BETA, BATCH = 0.1, 4
model_name, run, url, steps = *sys.argv[1:4], int(sys.argv[4])


def tokens(rows, *sides, **options):
    texts = [
        processor.apply_chat_template([turn for side in sides for turn in row[side]], **options)
        for row in rows
    ]
    images = [row["images"] for row in rows if row["images"]] or None
    options = {"padding": True, "add_special_tokens": False, "return_tensors": "pt"}
    return processor(text=texts, images=images, **options)


def logps(model, rows, side):
    """Log-probability of each row's answer, of shape (rows,)."""
    asked, whole = tokens(rows, "prompt", add_generation_prompt=True), tokens(rows, "prompt", side)
    start, mask = asked["attention_mask"].sum(1, keepdim=True), whole["attention_mask"]
    logits = model(**whole.to(model.device)).logits[:, :-1].log_softmax(-1)
    of_tokens = logits.gather(2, whole["input_ids"][:, 1:, None]).squeeze(2)
    in_answer = torch.arange(1, mask.shape[1]) >= start
    return (of_tokens * (in_answer & mask[:, 1:].bool()).to(of_tokens)).sum(1)


processor = AutoProcessor.from_pretrained(model_name, padding_side="right")
policy = AutoModelForImageTextToText.from_pretrained(model_name, dtype="float32")
reference = copy.deepcopy(policy).requires_grad_(False)
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5)

pairs = torch_dataset(run, url=url)
loader = DataLoader(pairs, batch_size=BATCH, num_workers=2, collate_fn=list, in_order=False)
for step, rows in zip(range(steps), loader, strict=False):
    chosen, rejected = (
        logps(policy, rows, side) - logps(reference, rows, side) for side in ("chosen", "rejected")
    )
    loss = -logsigmoid(BETA * (chosen - rejected)).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}", flush=True)
    policy.save_pretrained("checkpoint")
    pairs.ack(row["receipt"] for row in rows)
