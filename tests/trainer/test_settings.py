from pathlib import Path

import pytest
from pydantic import ValidationError

from trainer.settings import read_settings


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = tmp_path / "train.toml"
    config.write_text('run = "file"\ngroup = "file"\nsteps = 7\nloss = "ipo"\n')
    monkeypatch.setenv("PREFSTREAM_TRAINER_RUN", "environment")
    monkeypatch.setenv("PREFSTREAM_TRAINER_STEPS", "8")
    settings = read_settings(config, {"run": "line", "steps": None})
    assert (settings.run, settings.steps, settings.group) == ("line", 8, "file")
    assert (settings.loss, settings.beta) == ("ipo", 0.9)


def test_the_defaults_are_the_papers():
    settings = read_settings(None, {})
    assert (settings.lora_rank, settings.lora_alpha, settings.beta) == (128, 256, 0.1)


def test_weights_go_into_the_output_folder_if_nothing_else_is_said(tmp_path: Path):
    assert read_settings(None, {"output": tmp_path}).weights == str(tmp_path / "weights")
    assert read_settings(None, {"weights": "s3://bucket/w"}).weights == "s3://bucket/w"


def test_a_misspelt_setting_is_an_error(tmp_path: Path):
    config = tmp_path / "train.toml"
    config.write_text("lora_rnak = 8\n")
    with pytest.raises(ValidationError, match="lora_rnak"):
        read_settings(config, {})


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere\.toml\."):
        read_settings(tmp_path / "nowhere.toml", {})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gamma": 0.25}, "`gamma` has no effect with `method` = online; it is for averaged"),
        ({"method": "averaged", "data": "d"}, "it is for offline and mixed"),
        ({"method": "offline", "data": "d", "offline_share": 0.5}, "it is for mixed"),
        ({"method": "mixed"}, "`method` = mixed needs `data`"),
        ({"loss": "sft", "nll_weight": 1}, "`loss` = sft is the NLL term alone"),
    ],
)
def test_settings_without_effect_are_refused(given: dict[str, object], said: str):
    with pytest.raises(ValidationError, match=said):
        read_settings(None, given)


def test_the_papers_shares_are_the_defaults_of_mixed_and_averaged():
    assert read_settings(None, {"method": "mixed", "data": "d"}).offline_share == 0.5
    assert read_settings(None, {"method": "averaged"}).gamma == 0.5
    assert read_settings(None, {}).gamma is None
