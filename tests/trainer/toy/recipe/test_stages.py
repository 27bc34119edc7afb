import torch

from trainer.toy.dataset import stream
from trainer.toy.recipe import stages
from trainer.toy.recipe.model import build_model, build_processor
from trainer.toy.recipe.tokenizer import build_tokenizer


def test_a_few_steps_of_every_stage_lower_the_loss():
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    processor, model = build_processor(tokenizer), build_model(tokenizer)
    rng = stream("training", 0)
    for stage, steps in (
        (stages.train_vision_tower, 4),
        (stages.train_grounded, 3),
        (stages.train_biased, 3),
    ):
        losses = stage(model, processor, rng, steps=steps)
        assert len(losses) == steps
        assert losses[-1] < losses[0], stage.__name__


def test_the_last_stage_leaves_the_eyes_alone():
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    eyes = (model.model.vision_tower, model.model.multi_modal_projector)
    before = [p.detach().clone() for part in eyes for p in part.parameters()]
    stages.train_biased(model, build_processor(tokenizer), stream("training", 0), steps=1)
    after = [parameter for part in eyes for parameter in part.parameters()]
    assert all(map(torch.equal, before, after))
