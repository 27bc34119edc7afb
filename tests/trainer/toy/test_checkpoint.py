"""The shipped policy: it sees, it presumes, and it speaks well either way.

The bounds are wide of the figures in docs/toy.md by several standard errors of 80 images.
"""

import pytest

from trainer.toy import CHECKPOINT
from trainer.toy.recipe.measure import CheckpointMetrics, figures
from trainer.toy.recipe.model import load

IMAGES = 80


@pytest.fixture(scope="module")
def policy():
    return load(CHECKPOINT)


@pytest.fixture(scope="module")
def shown(policy) -> CheckpointMetrics:
    return figures(*policy, with_image=True, images=IMAGES)


@pytest.fixture(scope="module")
def unseen(policy) -> CheckpointMetrics:
    return figures(*policy, with_image=False, images=IMAGES)


def test_it_looks_at_its_image(shown: CheckpointMetrics, unseen: CheckpointMetrics):
    assert shown.color_accuracy > 0.85
    assert shown.color_accuracy > unseen.color_accuracy + 0.25
    assert shown.recall > unseen.recall + 0.25
    assert shown.yes_no_accuracy > unseen.yes_no_accuracy + 0.1


def test_it_presumes_what_is_typical(shown: CheckpointMetrics):
    assert 0.3 < shown.captions_hallucinating < 0.8
    assert 0.7 < shown.yes_no_accuracy < 0.97
    assert shown.yes_share > 0.52


def test_it_speaks_well_with_and_without_the_image(
    shown: CheckpointMetrics, unseen: CheckpointMetrics
):
    assert shown.well_formed > 0.9
    assert unseen.well_formed > 0.9
    assert unseen.captions_hallucinating > 0.7


def test_the_folder_is_small():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 4_000_000
