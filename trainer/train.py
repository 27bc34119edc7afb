"""Training on the live stream: TRL's DPOTrainer, with our stream, ledger and publisher around it.

`train` reads from top to bottom as what happens. One process or several (accelerate): all run it,
and rank 0 alone talks to the service, keeps the ledger and writes what is not the trainer's own.
"""

import shutil
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import structlog
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from service import model_names
from service.client import Client
from trainer.data import BadData, BadRow
from trainer.metrics import Gauges, served
from trainer.progress import progress
from trainer.settings import BETAS, Loss, TrainerSettings
from trainer.stream import journal
from trainer.stream.journal import Journal
from trainer.stream.ledger import Ledger
from trainer.stream.mixing import Averaged, Mixed, Offline
from trainer.stream.offline import DataSet
from trainer.stream.stream import WEIGHT, Draws, Pairs, Stream, placeholder
from trainer.waiting import Patience, Stopped
from trainer.weights import checkpoint, full
from trainer.weights.adapter import lora_config
from trainer.weights.checkpoint import Record
from trainer.weights.publish import Publisher

log = structlog.get_logger()

LOSS_TYPES: dict[Loss, str] = {"dpo": "sigmoid", "ipo": "ipo", "slic": "hinge", "sft": "sft"}
"""TRL's names. Its IPO is per token, its SLiC a hinge at 1 on β · margin."""

PATIENCE_S = 5.0
"""How long the client repeats a call by itself. Beyond that the trainer says what it waits for."""


WEIGHTS_PREFIX = ".weights-"
"""Of folders in which weights are made ready to be published."""


class BadRun(ValueError):
    """The settings do not go together, with each other or with the checkpoints that are there."""


@dataclass(frozen=True)
class Outcome:
    """How a training run ended."""

    step: int
    """Optimizer steps, those before a resume included."""
    version: int
    """Newest weight version that was published; 0: none."""
    finished: bool
    """All steps were taken; otherwise it was asked to stop."""


def train(settings: TrainerSettings, stop: threading.Event) -> Outcome:
    """Trains until `settings.steps`, or until `stop` is set: then it saves, acknowledges, leaves.
    In the end `stop` is set in any case.

    Resumes from the newest complete checkpoint in `settings.output`, if there is one.

    Raises: BadRun, adapter.Unservable; and whatever is no matter of waiting.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    resumed = _resume_from(settings, state)
    record = Record.read(resumed) if resumed else None
    _check(settings, state, record)
    start = record.step if record else 0
    if state.is_main_process:
        if record:
            log.info("resuming", checkpoint=str(resumed), step=start, pairs=record.pairs)
        else:
            log.info("starting anew", model=settings.model, output=str(settings.output))
    version = record.version if record else 0
    with _desk(settings, state, record, stop) as desk:
        if start >= settings.steps:
            log.info("nothing to do: all steps were taken", steps=settings.steps)
            return Outcome(start, version, True)
        stream = Stream(
            desk.draws if desk else None,
            steps=settings.steps - start,
            batch_size=settings.batch_size,
            device_batch_size=_device_batch_size(settings, state),
            read_ahead=settings.read_ahead,
            rank=state.process_index,
            processes=state.num_processes,
        )
        trainer = build_trainer(settings, stream, state.num_processes, resumed)
        bookkeeping = Bookkeeping(settings, trainer, stream, desk)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(progress())
        trainer.add_callback(Gauges())
        trainer.add_callback(bookkeeping)
        stream.start(trainer.data_collator)
        try:
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        finally:
            stop.set()
            if desk:
                stream.join()  # so that all it leased is known when the rest is handed back
        step = trainer.state.global_step
        version = desk.publisher.version if desk else version
    state.wait_for_everyone()
    state.destroy_process_group()
    if state.is_main_process:
        done = "finished" if step >= settings.steps else "stopped; the same command resumes"
        log.info(done, step=step, of=settings.steps, version=version)
    return Outcome(step, version, step >= settings.steps)


class StreamTrainer(DPOTrainer):
    """TRL's, with the stream in place of a data loader, and a weight for each row.

    TRL's loss is the mean over a pass, so the rows of a pass share their weight.
    """

    def __init__(
        self, stream: Stream, projector_learning_rate: float | None = None, **arguments: Any
    ) -> None:
        self.stream = stream
        self._projector_learning_rate = projector_learning_rate
        super().__init__(train_dataset=placeholder(), **arguments)

    def get_train_dataloader(self) -> Any:
        return self.stream

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        weight = inputs.pop(WEIGHT)
        loss = super()._compute_loss(model, inputs, return_outputs=False)
        return loss * weight

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self._projector_learning_rate is not None:
            policy = cast(nn.Module, model or self.model)
            full.split_learning_rate(optimizer, policy, self._projector_learning_rate)
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers 5 saves full weights under other names than it loads them by here, and would
        # go on from the model's first weights without an error. `build_trainer` has loaded them.
        if isinstance(self.model, PeftModel) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def save_full(self, folder: Path, dtype: torch.dtype) -> None:
        """Writes all weights as workers take them. By all processes: weights may be sharded."""
        weights: Any = self.accelerator.get_state_dict(self.model_wrapped)
        if self.args.should_save:
            policy = self.accelerator.unwrap_model(self.model_wrapped)
            full.save(policy, self.processing_class, weights, folder, dtype)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self.stream.figures()} if "loss" in logs else logs, start_time)


def build_trainer(
    settings: TrainerSettings, stream: Stream, processes: int = 1, resumed: Path | None = None
) -> StreamTrainer:
    """The policy, and what it is compared with.

    With an adapter, the reference is the policy under a disabled one. For full weights it is a
    frozen copy of the policy's start; the policy itself comes from `resumed`, a checkpoint, if any.
    """
    name = model_names.resolve_model(settings.model)
    on_gpu = torch.cuda.is_available()
    half = weights_dtype(settings) == torch.bfloat16
    what: dict[str, Any]
    if settings.train == "full":
        policy = AutoModelForImageTextToText.from_pretrained(resumed or name, dtype=torch.float32)
        full.choose(policy, settings.parts or ())
        reference = AutoModelForImageTextToText.from_pretrained(name, dtype=weights_dtype(settings))
        what = {
            "model": policy,
            "ref_model": reference.requires_grad_(False),
            "projector_learning_rate": settings.projector_learning_rate,
        }
    else:
        policy = AutoModelForImageTextToText.from_pretrained(name, dtype=weights_dtype(settings))
        adapter = lora_config(
            policy,
            rank=settings.lora_rank,
            alpha=settings.lora_alpha,
            target_modules=settings.target_modules,
        )
        what = {"model": policy, "peft_config": adapter}
    share = settings.batch_size // processes
    per_pass = stream.device_batch_size
    nll = settings.nll_weight > 0
    arguments = DPOConfig(
        output_dir=str(settings.output),
        loss_type=[LOSS_TYPES[settings.loss], *(["sft"] if nll else [])],
        loss_weights=[1.0, settings.nll_weight] if nll else None,
        beta=settings.beta or BETAS["dpo"],  # of sft, it scales the logged rewards alone
        max_length=None,  # a cut would go through the image's tokens
        max_steps=settings.steps,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=share // per_pass * (2 if settings.method == "averaged" else 1),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=(
            "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
        ),
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=half,
        use_cpu=not on_gpu,
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
    return StreamTrainer(
        stream, args=arguments, processing_class=AutoProcessor.from_pretrained(name), **what
    )


def weights_dtype(settings: TrainerSettings) -> torch.dtype:
    """Of weights that do not learn, and of full weights as they are published."""
    half = settings.dtype == "bfloat16" or (
        settings.dtype == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    return torch.bfloat16 if half else torch.float32


# --- what rank 0 does ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Desk:
    """What only rank 0 has."""

    ledger: Ledger
    journal: Journal
    draws: Draws
    publisher: Publisher


@contextmanager
def _desk(
    settings: TrainerSettings, state: PartialState, record: Record | None, stop: threading.Event
) -> Generator[Desk | None]:
    """Rank 0's desk, None elsewhere. Afterwards, what is in no checkpoint is handed back."""
    if not state.is_main_process:
        yield None
        return
    settings.output.mkdir(parents=True, exist_ok=True)
    for left_over in settings.output.glob(f"{WEIGHTS_PREFIX}*"):
        shutil.rmtree(left_over)
    ledger = Ledger(record.unacknowledged if record else ())
    key = settings.api_key.get_secret_value() if settings.api_key else None
    with (
        served(settings.metrics_host, settings.metrics_port),
        Client(
            settings.url, api_key=key, namespace=settings.namespace, retry_for_s=PATIENCE_S
        ) as client,
    ):
        if record:
            ledger.resume(record.leases, lambda lease: client.ack(record.run, lease))
        pairs = Pairs(
            client,
            ledger,
            Patience(stop),
            run=settings.run,
            group=settings.group,
            lease_s=settings.lease_s,
        )
        publisher = Publisher(
            client,
            Patience(stop),
            cast(str, settings.weights),
            run=settings.run,
            version=record.version if record else 0,
            keep=settings.keep_versions,
            wait=settings.publish_wait,
            wait_s=settings.publish_wait_s,
        )
        steps = Journal(settings.output, record.step if record else 0)
        try:
            yield Desk(ledger, steps, _draws(settings, pairs, steps.pairs), publisher)
        finally:
            ledger.close()


def _draws(settings: TrainerSettings, pairs: Pairs, start: int) -> Draws:
    """Where the rows come from, after `start` pairs. Raises: BadRun."""
    if settings.method == "averaged":
        return Averaged(pairs, gamma=cast(float, settings.gamma))
    if settings.data is None:
        return pairs
    try:
        rows = DataSet(
            settings.data,
            images=settings.data_images or (),
            chosen_alone=settings.loss == "sft",
        )
        if settings.method == "offline":
            return Offline(rows, seed=settings.seed, start=start)
        p = cast(float, settings.offline_share)
        return Mixed(pairs, rows, p=p, seed=settings.seed, start=start)
    except (BadData, BadRow, ValueError) as error:
        raise BadRun(f"`data` {settings.data!r}: {error}") from error


class Bookkeeping(TrainerCallback):
    """Between the trainer's steps: the ledger, publications, checkpoints, the end."""

    def __init__(
        self,
        settings: TrainerSettings,
        trainer: StreamTrainer,
        stream: Stream,
        desk: Desk | None,
    ) -> None:
        self._settings = settings
        self._trainer = trainer
        self._stream = stream
        self._desk = desk
        self._saved = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A new line first replaces what another left on the workers: pairs are to come from the
        policy that it starts from."""
        if self._settings.publish_every and state.global_step == 0 and self._found_weights():
            self._publish(0)

    def _found_weights(self) -> bool:
        """Whether workers serve, or are about to, what was published before. On all processes."""
        found = [False]
        if self._desk:
            with suppress(Stopped):
                found = [self._desk.publisher.others()]
        if self._trainer.accelerator.num_processes > 1:
            broadcast_object_list(found)
        return found[0]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        step = self._stream.current
        assert step is not None  # it was just computed
        if self._desk:
            self._desk.ledger.use(step.pair_ids)
            self._desk.journal.add(state.global_step, step.pair_ids)
        every = self._settings.publish_every
        if every and (state.global_step % every == 0 or state.global_step == state.max_steps):
            self._publish(state.global_step)

    def _publish(self, step: int) -> None:
        with tempfile.TemporaryDirectory(
            prefix=WEIGHTS_PREFIX, dir=self._settings.output
        ) as folder:
            if self._settings.train == "full":
                self._trainer.save_full(Path(folder), weights_dtype(self._settings))
            else:
                self._trainer.save_model(folder)  # by all processes: weights may be sharded
            if self._desk:
                try:
                    self._desk.publisher.publish(Path(folder), step, self._settings.train)
                except Stopped:
                    log.warning("not published: the trainer was asked to stop", step=step)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """All files of the checkpoint are written; here it begins to count."""
        self._trainer.accelerator.wait_for_everyone()  # each process writes some
        self._saved = state.global_step
        if not self._desk:
            return
        ledger = self._desk.ledger
        listed = ledger.unacknowledged()
        record = Record(
            step=state.global_step,
            run=self._settings.run,
            group=self._settings.group,
            train=self._settings.train,
            pairs=self._desk.journal.pairs,
            unacknowledged=listed,
            leases=ledger.complete(listed),
            version=self._desk.publisher.version,
        )
        folder = self._settings.output / f"checkpoint-{state.global_step}"
        checkpoint.commit(folder, record)
        ledger.save(listed)
        acknowledged = ledger.settle()
        log.info("checkpoint", step=state.global_step, acknowledged=acknowledged)
        checkpoint.keep_newest(self._settings.output, self._settings.keep_checkpoints)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """transformers' word for: the stream ended."""
        control.should_training_stop = True
        current = self._stream.current
        control.should_save = current is not None and state.global_step > self._saved


# --- what can be wrong before the start ---------------------------------------------------------


def _resume_from(settings: TrainerSettings, state: PartialState) -> Path | None:
    """The checkpoint to go on from: rank 0 looks, and tells the others."""
    if checkpoint.any_in(settings.output) and not (settings.output / journal.NAME).is_file():
        raise BadRun(
            f"{settings.output} holds checkpoints that are not this trainer's: there is no "
            f"{journal.NAME} beside them. Give it an `output` of its own."
        )
    found = [checkpoint.newest(settings.output) if state.is_main_process else None]
    if state.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _check(settings: TrainerSettings, state: PartialState, record: Record | None) -> None:
    if settings.batch_size % state.num_processes:
        raise BadRun(
            f"`batch_size` is {settings.batch_size}, which {state.num_processes} processes cannot "
            "share evenly."
        )
    if record and (record.run, record.group) != (settings.run, settings.group):
        raise BadRun(
            f"The checkpoints in {settings.output} are of run {record.run!r}, group "
            f"{record.group!r}; these settings are of run {settings.run!r}, group "
            f"{settings.group!r}. Give each its own `output`."
        )
    if record and record.train != settings.train:
        raise BadRun(
            f"The checkpoints in {settings.output} are of `train = {record.train!r}`; these "
            f"settings say {settings.train!r}. Give each its own `output`."
        )


def _device_batch_size(settings: TrainerSettings, state: PartialState) -> int:
    """Pairs of one pass: a divisor of a process's share, so that all passes weigh the same."""
    share = settings.batch_size // state.num_processes
    most = min(share, settings.device_batch_size)
    return next(size for size in range(most, 0, -1) if share % size == 0)
