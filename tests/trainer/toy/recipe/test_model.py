import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.toy.dataset import examples
from trainer.toy.recipe.model import IMAGE_TOKENS, build_model, build_processor, load, save
from trainer.toy.recipe.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()


def test_an_image_becomes_two_views_and_36_tokens():
    processor = build_processor(TOKENIZER)
    item = examples(1)[0]
    inputs = processor(images=item.image(), text="USER:<image>\n?", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 2, 3, 56, 56)
    assert torch.equal(inputs["pixel_values"][0, 0], inputs["pixel_values"][0, 1])
    assert (inputs["input_ids"] == processor.image_token_id).sum() == IMAGE_TOKENS
    model = build_model(TOKENIZER)
    features = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    assert features.pooler_output[0].shape == (IMAGE_TOKENS, 128)


def test_a_saved_model_loads_again_and_has_the_engine_names(tmp_path):
    torch.manual_seed(0)
    model = build_model(TOKENIZER)
    save(model, build_processor(TOKENIZER), tmp_path)
    assert next(model.parameters()).dtype == torch.float32
    weights = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in weights
    assert "language_model.model.embed_tokens.weight" in weights
    loaded, processor = load(tmp_path)
    assert processor.tokenizer.chat_template == TOKENIZER.chat_template
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float()), name


def test_saving_a_loaded_model_keeps_the_names(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    save(build_model(TOKENIZER), build_processor(TOKENIZER), first)
    save(*load(first), second)
    once, twice = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_missing_weights_are_not_made_up(tmp_path):
    save(build_model(TOKENIZER), build_processor(TOKENIZER), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["image_newline"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="image_newline"):
        load(tmp_path)


def test_seeds_repeat_fresh_weights_and_the_model_is_small():
    torch.manual_seed(1)
    first = build_model(TOKENIZER)
    torch.manual_seed(1)
    second = build_model(TOKENIZER)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert 1.4e6 < first.num_parameters() < 1.6e6
