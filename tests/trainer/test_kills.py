"""Kill -9 at any moment: in the line of checkpoints no pair is lost and none counts twice."""

from collections import Counter

import pytest

from service.client import Client
from tests.servers import Server
from tests.trainer import pairs
from tests.trainer.conftest import Configure
from tests.trainer.training_runs import KILL_POINTS, Trials
from trainer.settings import TrainerSettings
from trainer.stream import journal
from trainer.weights import checkpoint


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_killed_trainer_resumes_without_loss_or_repetition(
    point: str, server: Server, configure: Configure, trials: Trials
):
    resumes(server, configure(steps=5, lease_s=1.0), trials, point, processes=1)


def test_so_do_two_processes(server: Server, configure: Configure, trials: Trials):
    point = "after a step, before its checkpoint"
    resumes(server, configure(steps=5, lease_s=1.0), trials, point, processes=2)


def resumes(
    server: Server, settings: TrainerSettings, trials: Trials, point: str, processes: int
) -> None:
    made = pairs.append(server.url, 20)
    trials.run(settings, kill_at=point, processes=processes)
    trials.run(settings, processes=processes)
    used = Counter(pair for _, step in journal.read(settings.output) for pair in step)
    assert used == Counter(made)
    record = checkpoint.CheckpointRecord.read(settings.output / "checkpoint-5")
    assert (record.step, record.pairs) == (5, 20)
    with Client(server.url) as client:
        [group] = client.run(pairs.RUN).groups
    assert (group.acknowledged, group.leased, group.returned) == (20, 0, 0)
