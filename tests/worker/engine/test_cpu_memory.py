"""What an engine on a CPU takes of the memory. `tests/service/commands/test_up.py` starts one."""

import math
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoConfig
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.kv_cache_interface import FullAttentionSpec

from tests.worker import checkpoints
from worker.engine import NotEnoughMemory
from worker.engine.cpu_memory import GIB, PROCESS, bytes_of_a_sequence, plan_memory, take_memory
from worker.model_shapes import ModelShapes, model_shapes
from worker.plugin.masking import engine_names
from worker.settings import WorkerSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shapes(model: Path) -> ModelShapes:
    config = AutoConfig.from_pretrained(model)
    return model_shapes(config, engine_names(config.architectures[0]))


def engine_config(model: Path, **given: Any) -> VllmConfig:
    """As an engine makes it, of float32 and room for one adapter of rank 16."""
    args = {"dtype": "float32", "max_num_seqs": 8, "max_lora_rank": 16, **given}
    return AsyncEngineArgs(model=str(model), enable_lora=True, **args).create_engine_config()


@pytest.fixture(scope="module")
def config(model: Path) -> VllmConfig:
    return engine_config(model)


def test_the_weights_are_what_the_checkpoint_holds(
    model: Path, config: VllmConfig, shapes: ModelShapes
) -> None:
    with safe_open(model / "model.safetensors", "pt") as file:
        held = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert plan_memory(config, shapes, GIB * 8).weights == held


def test_a_sequence_is_what_vllm_counts(config: VllmConfig) -> None:
    text = config.model_config.hf_text_config
    page = FullAttentionSpec(
        block_size=config.cache_config.block_size,
        num_kv_heads=text.num_key_value_heads,
        head_size=text.hidden_size // text.num_attention_heads,
        dtype=config.model_config.dtype,
    ).page_size_bytes
    pages = math.ceil(text.max_position_embeddings / config.cache_config.block_size) + 1
    assert bytes_of_a_sequence(config) == text.num_hidden_layers * pages * page


def test_a_small_model_takes_little_of_a_machine_that_is_full(
    config: VllmConfig, shapes: ModelShapes
) -> None:
    memory = plan_memory(config, shapes, GIB * 3)
    assert memory.cache == 8 * bytes_of_a_sequence(config)
    assert memory.weights + memory.adapters + memory.cache < 0.01 * memory.free


def test_the_cache_takes_half_of_what_is_left_and_one_sequence_at_least(
    config: VllmConfig, shapes: ModelShapes
) -> None:
    sequence = bytes_of_a_sequence(config)
    ample = plan_memory(config, shapes, GIB * 8)
    least = ample.weights + ample.adapters + PROCESS + sequence
    assert plan_memory(config, shapes, least + 5 * sequence).cache == 3 * sequence
    assert plan_memory(config, shapes, least).cache == sequence
    with pytest.raises(NotEnoughMemory) as refused:
        plan_memory(config, shapes, least - 1)
    for part in (f"{least / GIB:.2f} GiB", "512 tokens", "PREFSTREAM_WORKER_MAX_MODEL_LEN"):
        assert part in str(refused.value)


def test_by_itself_vllm_is_told(
    model: Path, shapes: ModelShapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    config = engine_config(model)
    said = take_memory(config, shapes, WorkerSettings())
    assert config.cache_config.kv_cache_memory_bytes == 8 * bytes_of_a_sequence(config)
    assert said.keys() == {"weights_gib", "adapters_gib", "cache_gib", "free_gib"}


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ({"gpu_memory_utilization": 0.3}, {}),
        ({"engine_args": {"gpu_memory_utilization": 0.3}}, {}),
        ({"engine_args": {"kv_cache_memory_bytes": GIB}}, {}),
        ({}, {"VLLM_CPU_KVCACHE_SPACE": "1"}),
    ],
)
def test_a_setting_of_the_user_stays(
    model: Path,
    shapes: ModelShapes,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    environment: dict[str, str],
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = engine_config(model, **settings.get("engine_args", {}))
    before = config.cache_config.kv_cache_memory_bytes
    assert take_memory(config, shapes, WorkerSettings.model_validate(settings)) == {}
    assert config.cache_config.kv_cache_memory_bytes == before
