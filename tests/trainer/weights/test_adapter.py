from pathlib import Path

import pytest
from peft import PeftModel, get_peft_model
from transformers import LlavaNextForConditionalGeneration

from trainer.weights.adapter import UnservableWeights, lora_config


@pytest.fixture
def policy(model: Path) -> LlavaNextForConditionalGeneration:
    return LlavaNextForConditionalGeneration.from_pretrained(model)


def test_it_is_on_every_linear_layer_of_the_language_model_and_nowhere_else(
    policy: LlavaNextForConditionalGeneration,
):
    adapted = get_peft_model(policy, lora_config(policy, rank=2, alpha=4))
    assert isinstance(adapted, PeftModel)
    trained = {name for name, weights in adapted.named_parameters() if weights.requires_grad}
    layers = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    layers += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert trained == {
        f"base_model.model.model.language_model.layers.{number}.{layer}.lora_{side}.default.weight"
        for number in range(4)
        for layer in layers
        for side in "AB"
    }


@pytest.mark.parametrize(
    ("target_modules", "message"),
    [
        (
            r".*(linear_1|q_proj)",
            r"This would train model\.multi_modal_projector\.linear_1, "
            r"model\.vision_tower\..*q_proj.* and 1 more, but workers serve adapters of the "
            r"language model's linear layers only",
        ),
        (r".*multi_modal_projector\.linear_2", r"This would train model\.multi_modal_projector"),
        (r".*embed_tokens", r"This would train model\.language_model\.embed_tokens, but"),
        (r"lm_head", r"This would train lm_head, but"),
        (r"q_proj", r"`target_modules` 'q_proj' matches no module\. It is compared with full"),
    ],
)
def test_what_workers_would_ignore_is_refused(
    target_modules: str, message: str, policy: LlavaNextForConditionalGeneration
):
    with pytest.raises(UnservableWeights, match=message):
        lora_config(policy, rank=2, alpha=4, target_modules=target_modules)
