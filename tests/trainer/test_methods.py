"""Training by each method on real pairs, and the loss of averaged DPO against its formula."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file

from service.client import Client, PrefstreamError
from service.schemas import JobStatus, SampleRequest, assistant_turn, user_turn
from tests.servers import Server
from tests.trainer import pairs
from tests.trainer.conftest import Configure
from tests.trainer.stream.test_ledger import pair
from tests.trainer.test_train import adapter, group, in_thread, inputs_of
from tests.trainer.training_runs import Trials, seen
from tests.waiting import until
from trainer.data import SECOND_REJECTED
from trainer.methods.build import build_trainer
from trainer.methods.collator import ROW_WEIGHT, RowCollator
from trainer.settings import InvalidSettings
from trainer.stream import journal
from trainer.stream.data_loader import PairDataLoader
from trainer.stream.mixing import AveragedRows
from trainer.stream.rows import Row
from trainer.toy.dataset import png
from trainer.train import train
from trainer.weights import checkpoint


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight pairs in a file, numbered from 1000."""
    folder = tmp_path / "data"
    folder.mkdir()
    return pairs.write(folder, 8)


def test_offline_trains_on_the_data_set_alone(
    configure: Configure, data: Path, trials: Trials
) -> None:
    settings = configure(method="offline", data=str(data), steps=4)
    trials.run(settings)
    used = [pair_id for _, step in journal.read(settings.output) for pair_id in step]
    assert len(used) == 16
    assert sorted(used[:8]) == sorted(used[8:]) == [f"d{n}" for n in range(8)]
    assert [f"d{n - 1000}" for numbers in seen(settings) for n in numbers] == used


def test_mixed_takes_what_it_draws_from_the_run_in_order_and_acknowledges_it(
    server: Server, configure: Configure, data: Path, trials: Trials
) -> None:
    made = pairs.append(server.url, 24)
    settings = configure(method="mixed", data=str(data), steps=6)
    trials.run(settings)
    used = [pair_id for _, step in journal.read(settings.output) for pair_id in step]
    online = [pair_id for pair_id in used if pair_id in made]
    assert 0 < len(online) < 24
    assert online == made[: len(online)]
    assert group(server).acknowledged == len(online)


def test_a_killed_mixed_line_draws_what_an_unbroken_one_draws(
    server: Server, configure: Configure, data: Path, trials: Trials, tmp_path: Path
) -> None:
    pairs.append(server.url, 24)
    mixed = {"method": "mixed", "data": str(data), "steps": 6, "lease_s": 1.0}
    whole = configure(**mixed, output=tmp_path / "whole", group="whole")
    broken = configure(**mixed, output=tmp_path / "broken", group="broken")
    trials.run(whole)
    trials.run(broken, kill_at="after a checkpoint, before it is acknowledged")
    trials.run(broken)
    first, second = (
        [pair_id for _, step in journal.read(settings.output) for pair_id in step]
        for settings in (whole, broken)
    )
    assert sorted(second) == sorted(first)
    # What is delivered again comes in another order; what is drawn from the file does not.
    assert [p if p.startswith("d") else "" for p in second] == [
        p if p.startswith("d") else "" for p in first
    ]


@pytest.mark.parametrize("method", ["offline", "mixed"])
def test_a_killed_line_goes_on_where_examples_come_twice_in_a_step(
    method: str, server: Server, configure: Configure, trials: Trials, tmp_path: Path
) -> None:
    """Fewer examples than a step takes, two answers of each row: ids do not tell how many were
    drawn."""
    pairs.append(server.url, 24)
    data = str(pairs.write_conversations(tmp_path, 1))
    settings = {"method": method, "data": data, "steps": 6, "lease_s": 1.0}
    whole = configure(**settings, output=tmp_path / "whole", group="whole")
    broken = configure(**settings, output=tmp_path / "broken", group="broken")
    trials.run(whole)
    trials.run(broken, kill_at="after a step, before its checkpoint")
    trials.run(broken)
    of_data = [
        [[pair_id for pair_id in step if "row 1" in pair_id] for _, step in journal.read(output)]
        for output in (whole.output, broken.output)
    ]
    assert of_data[0] == of_data[1]
    assert {pair_id for step in of_data[0] for pair_id in step} == {
        "povid.json, row 1 (1.0)",
        "povid.json, row 1 (1.1)",
    }
    drawn = [len(step) for _, step in journal.read(broken.output)]
    assert drawn == [4] * 6
    record = checkpoint.CheckpointRecord.read(broken.output / "checkpoint-6")
    assert record.pairs == 24


def test_sft_learns_the_chosen_sides(server: Server, configure: Configure) -> None:
    pairs.append(server.url, 32)
    settings = configure(loss="sft", steps=8, publish_every=8)
    assert settings.beta is None
    train(settings, threading.Event())
    stream = PairDataLoader(None, steps=0, batch_size=4, device_batch_size=4, read_ahead=0)
    trainer = build_trainer(settings, stream, inputs_of(settings))
    policy = trainer.model
    assert isinstance(policy, PeftModel)
    held_out = pairs.held_out_rows(4)
    before, _ = log_probs(policy, trainer.data_collator, held_out)
    set_peft_model_state_dict(policy, adapter(settings.output, 8))
    after, _ = log_probs(policy, trainer.data_collator, held_out)
    assert (after > before + 1).all()


def test_averaged_is_the_weighted_mean_of_both_losses(configure: Configure) -> None:
    """γ·L(y⁺, y⁻) + (1 − γ)·L(y⁺, ỹ⁻), by hand from each side's log-probabilities."""
    gamma, beta, nll_weight = 0.25, 0.3, 0.7
    settings = configure(
        method="averaged", gamma=gamma, beta=beta, nll_weight=nll_weight, dtype="float32"
    )
    rows = [averaged_row(number) for number in range(4)]

    class Given:
        def draw(self, count: int) -> list[Row]:
            return rows[:count]

    draws = AveragedRows(Given(), gamma=gamma)
    stream = PairDataLoader(draws, steps=1, batch_size=4, device_batch_size=2, read_ahead=0)
    trainer = build_trainer(settings, stream, inputs_of(settings))
    policy = trainer.model
    assert isinstance(policy, PeftModel)
    torch.manual_seed(0)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:  # a policy that differs from its reference model
            torch.nn.init.normal_(weight.data, std=0.05)

    def by_hand(two: list[Row]) -> float:
        """Of two pairs: a pass, over whose tokens TRL takes the mean of the NLL term."""
        first, second = (
            [_with_rejected(row, text(number)) for number, row in enumerate(two)]
            for text in (pairs.second_rejected, pairs.rejected)
        )
        losses = []
        for given in (first, second):
            sides, tokens = log_probs(policy, trainer.data_collator, given)
            with policy.disable_adapter():
                reference, _ = log_probs(policy, trainer.data_collator, given)
            chosen, rejected = (sides - reference).chunk(2)
            dpo = -torch.log(1 / (1 + torch.exp(-beta * (chosen - rejected)))).mean()
            nll = -sides[:2].sum() / tokens[:2].sum()
            losses.append(float(dpo + nll_weight * nll))
        return gamma * losses[0] + (1 - gamma) * losses[1]

    expected = (by_hand(rows[:2]) + by_hand(rows[2:])) / 2
    stream.start(trainer.data_collator)
    batches = map(trainer._prepare_inputs, stream)  # to its device
    losses = [trainer.compute_loss(policy, batch).item() for batch in batches]
    assert len(losses) == trainer.args.gradient_accumulation_steps == 4
    assert sum(losses) / 4 == pytest.approx(expected, rel=1e-5)


def test_averaged_trains_on_a_run_whose_pairs_carry_both_sides(
    server: Server, configure: Configure, trials: Trials
) -> None:
    made = pairs.append(server.url, 8)
    settings = configure(method="averaged", gamma=0.25, steps=2)
    trials.run(settings)
    assert journal.read(settings.output) == [(1, made[:4]), (2, made[4:])]
    assert group(server).acknowledged == 8
    assert seen(settings) == [[0, 1], [2, 3], [0, 1], [2, 3], [4, 5], [6, 7], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"There is no .*pairs\.jsonl"),
        ("", "has no pairs"),
        ('{"prompt": "?"}\n', r"pairs\.jsonl, row 1 has the columns prompt, which is none of"),
        ('{"prompt": "?", "completion": "!"}\n', r"row 1: has no rejected side, so it is no pair"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_before_the_first_step(
    content: str | None, said: str, configure: Configure, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidSettings, match=said):
        train(configure(method="offline", data=str(path)), threading.Event())


def test_a_trainer_that_dies_stops_who_feeds_its_run_and_not_the_service(
    server: Server, configure: Configure, trials: Trials
) -> None:
    settings = configure(steps=10, lease_s=1.0)
    feeder = in_thread(lambda: pairs.append(server.url, 40, window=8))
    trials.run(settings, kill_at="after a step, before its checkpoint")
    with Client(server.url, retry_for_s=0) as client:
        asyncio.run(until(lambda: _full(client), timeout_s=60))
        assert feeder.is_alive()
        with pytest.raises(PrefstreamError, match="window"):
            client.sample(SampleRequest(prompt="One more?", run=pairs.RUN))
        job = client.sample(SampleRequest(prompt="And one for nobody?"))
        assert job.status == JobStatus.queued
        client.cancel(job.id)
    trials.run(settings)
    feeder.join(60)
    assert not feeder.is_alive()
    assert group(server).acknowledged + group(server).leased + group(server).returned == 40


def test_a_new_line_first_replaces_the_weights_that_another_left_on_the_workers(
    server: Server, configure: Configure, tmp_path: Path
) -> None:
    pairs.append(server.url, 8)
    once = {"steps": 1, "publish_every": 1}
    assert train(configure(**once, output=tmp_path / "a"), threading.Event()).version == 1
    second = configure(**once, output=tmp_path / "b", group="second")
    assert train(second, threading.Event()).version == 3
    start = load_file(tmp_path / "b" / "weights" / "2" / "adapter_model.safetensors")
    assert all(not weight.any() for name, weight in start.items() if "lora_B" in name)


async def _full(client: Client) -> bool:
    run = client.run(pairs.RUN)
    [trainer] = run.groups
    return run.open_jobs + trainer.waiting + trainer.returned >= run.settings.window


def averaged_row(number: int) -> Row:
    item = pairs.items(number + 1)[number]
    made = pair(f"p{number}").model_copy(
        update={
            "prompt": [user_turn(item.prompt, 1)],
            "chosen": [assistant_turn(item.reference)],
            "rejected": [assistant_turn(pairs.rejected(number % 2))],
            "metadata": {SECOND_REJECTED: pairs.second_rejected(number % 2)},
        }
    )
    return Row(made, [png(item)], staleness=0)


def _with_rejected(row: Row, text: str) -> Row:
    pair = row.pair.model_copy(update={"rejected": [assistant_turn(text)]})
    return replace(row, pair=pair)


@torch.no_grad()
def log_probs(
    policy: PeftModel, collate: RowCollator, rows: list[Row]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the chosen sides, then the rejected ones: log-probability, and number of tokens."""
    inputs = collate(rows)
    inputs = {k: v.to(policy.device) for k, v in inputs.items() if k != ROW_WEIGHT}
    mask = inputs.pop("completion_mask")[:, 1:].bool()
    log_softmax = policy(**inputs).logits[:, :-1].log_softmax(-1)
    each = log_softmax.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
    return each.masked_fill(~mask, 0).sum(1), mask.sum(1)
