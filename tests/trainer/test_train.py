"""Real training of a toy policy on a real stream, in one process and in two."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from redis import Redis
from safetensors.torch import load_file

from service.checkpoints.input_processor import InputProcessor, load_input_processor
from service.client import Client
from service.schemas import Group
from service.settings import Settings
from tests import hub_checkpoints
from tests.servers import Server
from tests.service.http import served
from tests.trainer import pairs
from tests.trainer.conftest import Configure
from tests.trainer.margin import margin
from tests.trainer.training_runs import Trials, seen
from trainer.callbacks.checkpointing import CheckpointCallback
from trainer.methods.build import build_trainer
from trainer.settings import InvalidSettings, TrainerSettings
from trainer.stream import journal
from trainer.stream.data_loader import PairDataLoader
from trainer.stream.ledger import Ledger
from trainer.stream.online import OnlineRows
from trainer.train import TrainingResult, train
from trainer.waiting import Waiter
from trainer.weights.adapter import UnservableWeights


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def adapter(output: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(output / f"checkpoint-{step}" / "adapter_model.safetensors")


def group(server: Server) -> Group:
    with Client(server.url) as client:
        [group] = client.run(pairs.RUN).groups
    return group


def test_every_step_uses_the_next_pairs_and_the_first_is_not_lost(
    server: Server, configure: Configure, trials: Trials
):
    made = pairs.append(server.url, 24)
    settings = configure(steps=6)
    trials.run(settings)
    assert journal.read(settings.output) == [(n + 1, made[4 * n :][:4]) for n in range(6)]
    assert seen(settings) == [[2 * n, 2 * n + 1] for n in range(12)]


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="NCCL: one process to a GPU")
def test_two_processes_share_each_step_and_learn_what_one_learns(
    server: Server, configure: Configure, trials: Trials, tmp_path: Path
):
    made = pairs.append(server.url, 16)
    one = configure(steps=4, output=tmp_path / "one", group="one")
    two = configure(steps=4, output=tmp_path / "two", group="two", publish_every=4)
    trials.run(one)
    trials.run(two, processes=2)
    assert journal.read(two.output) == [(n + 1, made[4 * n :][:4]) for n in range(4)]
    assert seen(two, 0) == [[4 * n, 4 * n + 2] for n in range(4)]
    assert seen(two, 1) == [[4 * n + 1, 4 * n + 3] for n in range(4)]
    for name, weights in adapter(one.output, 4).items():
        torch.testing.assert_close(adapter(two.output, 4)[name], weights, atol=2e-5, rtol=1e-3)


def test_a_resumed_trainer_goes_on_as_if_it_had_never_stopped(
    server: Server, configure: Configure, trials: Trials, tmp_path: Path
):
    pairs.append(server.url, 16)
    whole = configure(steps=4, output=tmp_path / "whole", group="whole")
    parts = configure(steps=2, output=tmp_path / "parts", group="parts")
    trials.run(whole)
    trials.run(parts)
    trials.run(parts.model_copy(update={"steps": 4}))
    for name, weights in adapter(whole.output, 4).items():
        assert torch.equal(adapter(parts.output, 4)[name], weights), name


def test_pairs_are_acknowledged_when_a_checkpoint_has_them(
    server: Server, configure: Configure, monkeypatch: pytest.MonkeyPatch
):
    pairs.append(server.url, 24)
    acknowledged: list[int] = []
    before_each_step(monkeypatch, lambda _: acknowledged.append(group(server).acknowledged))
    train(configure(steps=6), threading.Event())
    assert acknowledged == [0, 0, 8, 8, 16, 16]
    assert (group(server).acknowledged, group(server).redelivered) == (24, 0)


def test_asked_to_stop_it_saves_and_hands_back_what_it_had_read_ahead(
    server: Server, configure: Configure, monkeypatch: pytest.MonkeyPatch
):
    made = pairs.append(server.url, 24)
    settings, stop = configure(steps=6), threading.Event()
    before_each_step(monkeypatch, lambda step: stop.set() if step == 3 else None)
    outcome = train(settings, stop)
    assert not outcome.finished
    assert outcome.step in (3, 4)  # one may have been dealt out already
    assert group(server).acknowledged == 4 * outcome.step
    assert group(server).leased == 0
    monkeypatch.undo()
    assert train(settings, threading.Event()) == TrainingResult(6, 0, True)
    assert [pair for _, step in journal.read(settings.output) for pair in step] == made


def test_it_waits_for_the_first_job_of_a_run(
    server: Server, configure: Configure, monkeypatch: pytest.MonkeyPatch
):
    waits = threading.Event()
    lease = OnlineRows._lease

    def lease_and_tell(self: OnlineRows, count: int) -> object:
        found = lease(self, count)
        if found is None:
            waits.set()
        return found

    monkeypatch.setattr(OnlineRows, "_lease", lease_and_tell)
    training = in_thread(lambda: train(configure(steps=2), threading.Event()))
    assert waits.wait(60)
    pairs.append(server.url, 8)
    training.join(60)
    assert group(server).acknowledged == 8


def test_a_service_that_is_away_for_a_while_is_waited_for(
    own_server: Server, configure: Configure, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("trainer.main_process.CLIENT_RETRY_S", 0.0)
    made = pairs.append(own_server.url, 16)
    settings = configure(url=own_server.url, steps=4)
    away = threading.Event()
    wait = Waiter.pause

    def wait_and_tell(self: Waiter, why: str, *rest: object) -> None:
        if "away" in why:
            away.set()
        wait(self, why, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Waiter, "pause", wait_and_tell)
    before_each_step(monkeypatch, lambda step: own_server.kill() if step == 2 else None)
    training = in_thread(lambda: train(settings, threading.Event()))
    assert away.wait(60)
    own_server.start()
    training.join(60)
    assert [pair for _, step in journal.read(settings.output) for pair in step] == made


def test_a_window_smaller_than_a_step_still_makes_progress(server: Server, configure: Configure):
    training = in_thread(lambda: train(configure(steps=2), threading.Event()))
    made = pairs.append(server.url, 8, window=3)
    training.join(60)
    assert group(server).acknowledged == len(made)


def test_it_trains_over_http_as_well(server: Server, configure: Configure):
    made = pairs.append(server.url, 8)
    with served(Settings(redis_url=server.url)) as url:  # pyright: ignore[reportArgumentType]
        settings = configure(url=url, steps=2)
        train(settings, threading.Event())
    assert journal.read(settings.output) == [(1, made[:4]), (2, made[4:])]


def test_a_pair_whose_image_is_gone_is_left_out(server: Server, configure: Configure):
    made = pairs.append(server.url, 5)
    with Redis.from_url(server.url) as redis, Client(server.url) as client:
        [gone] = next(client.pairs(pairs.RUN)).images
        assert redis.delete(f"prefstream:image:{gone.removeprefix('sha256:')}")
    settings = configure(steps=1)
    train(settings, threading.Event())
    assert journal.read(settings.output) == [(1, made[1:])]
    assert group(server).acknowledged == 5


@pytest.mark.parametrize(("loss", "nll_weight"), [("ipo", 0.0), ("slic", 0.0), ("dpo", 0.5)])
def test_every_loss_trains(loss: str, nll_weight: float, server: Server, configure: Configure):
    pairs.append(server.url, 4)
    settings = configure(steps=1, loss=loss, nll_weight=nll_weight)
    train(settings, threading.Event())
    weights = adapter(settings.output, 1)
    assert any(w.abs().sum() > 0 for name, w in weights.items() if "lora_B" in name)


def test_training_raises_the_preference_margin_on_held_out_pairs(
    server: Server, configure: Configure
):
    pairs.append(server.url, 32)
    settings = configure(steps=8)
    rows = pairs.held_out_rows(8)
    inputs = inputs_of(settings)
    stop = threading.Event()
    with Client(server.url) as client:
        source = OnlineRows(
            client, Ledger(), Waiter(stop), inputs, run=pairs.RUN, group="trainer", lease_s=60
        )
        stream = PairDataLoader(source, steps=8, batch_size=4, device_batch_size=4, read_ahead=1)
        trainer = build_trainer(settings, stream, inputs)
        policy = trainer.model
        assert isinstance(policy, PeftModel)
        before = margin(policy, trainer.data_collator, rows)
        stream.start(trainer.data_collator)
        trainer.train()
        after = margin(policy, trainer.data_collator, rows)
    assert before == 0
    assert after > 1


@pytest.mark.parametrize(
    "make",
    [hub_checkpoints.llava_15, hub_checkpoints.llava_16_vicuna, hub_checkpoints.llava_16_mistral],
)
def test_published_llavas_train_in_their_older_folders(
    make: Callable[..., Path], server: Server, configure: Configure, tmp_path: Path
):
    pairs.append(server.url, 4)
    folder = make(tmp_path / "model", template="processor", dtype=torch.float16)
    train(configure(model=str(folder), steps=1), threading.Event())
    weights = adapter(tmp_path / "out", 1)
    assert any(w.abs().sum() > 0 for name, w in weights.items() if "lora_B" in name)


def test_checkpoints_of_another_run_are_refused(server: Server, configure: Configure):
    pairs.append(server.url, 4)
    train(configure(steps=1), threading.Event())
    with pytest.raises(
        InvalidSettings, match=r"are of run 'r', group 'trainer'; these settings are of run"
    ):
        train(configure(steps=2, run="other"), threading.Event())


def test_checkpoints_of_another_program_are_left_alone(server: Server, configure: Configure):
    settings = configure(steps=1)
    theirs = settings.output / "checkpoint-7" / "model.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    with pytest.raises(InvalidSettings, match=r"holds checkpoints that are not this trainer's"):
        train(settings, threading.Event())
    assert theirs.read_text() == "precious"


def test_a_run_on_the_projector_is_refused(server: Server, configure: Configure):
    settings = configure(target_modules=r".*multi_modal_projector\.linear_\d")
    with pytest.raises(
        UnservableWeights, match=r"This would train model\.multi_modal_projector\.linear_1"
    ):
        train(settings, threading.Event())


def test_with_all_steps_taken_there_is_nothing_to_do(server: Server, configure: Configure):
    pairs.append(server.url, 4)
    settings = configure(steps=1)
    assert train(settings, threading.Event()) == TrainingResult(1, 0, True)
    assert train(settings, threading.Event()) == TrainingResult(1, 0, True)


def before_each_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Calls `act` with the number of the step that was just computed, before it is noted."""
    note = CheckpointCallback.on_step_end

    def on_step_end(
        self: CheckpointCallback, args: object, state: object, *rest: object, **more: object
    ):
        act(state.global_step)  # pyright: ignore[reportAttributeAccessIssue]
        return note(self, args, state, *rest, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(CheckpointCallback, "on_step_end", on_step_end)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def inputs_of(settings: TrainerSettings) -> InputProcessor:
    return load_input_processor(settings.model, settings)
