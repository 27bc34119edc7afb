"""A family that is not proven: refused, or tried after a check that finds what is wrong."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.families.checkpoints.unproven import glm4v
from tests.worker.preloaded import preloaded
from worker.bdhs.corruption import ImageCorruption
from worker.engine import Engine
from worker.engine.masking_check import check_masking, start_unproven
from worker.plugin.families import PROVEN, UnsupportedModel, require_family
from worker.settings import WorkerSettings

ALL = [
    "as many rows as places",
    "all kept equals no mask",
    "noise changes the answer",
    "an empty mask answers",
    "an adapter changes the answer",
]


def settings(model: Path, **more: object) -> WorkerSettings:
    return WorkerSettings.model_validate(
        {
            "model": str(model),
            "dtype": "float32",
            "enforce_eager": True,
            "max_num_seqs": 8,
            "gpu_memory_utilization": 0.1,
            "max_lora_rank": 16,
            **more,
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return glm4v(tmp_path_factory.mktemp("glm4v"))


@pytest.fixture(scope="module")
async def engine(model: Path) -> AsyncIterator[Engine]:
    """It has passed the check at start."""
    engine = Engine(settings(model, unproven=True))
    engine.read_config()
    with preloaded():
        await start_unproven(engine)
    yield engine
    engine.stop()


async def failed(engine: Engine) -> dict[str, str]:
    checked = await check_masking(engine)
    assert [check.what for check in checked] == ALL
    return {check.what: check.problem for check in checked if check.problem}


async def test_a_model_that_does_all_of_it_comes_through(engine: Engine) -> None:
    assert await failed(engine) == {}


async def test_what_fails_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that takes images for whole ones, whatever a request says, and no adapter."""
    generate = engine.generate

    async def deaf(*arguments: Any, corruptions: Any = (), lora: Any = None, **more: Any) -> Any:
        return await generate(*arguments, **more)

    monkeypatch.setattr(engine, "generate", deaf)
    problems = await failed(engine)
    assert problems.keys() == {"noise changes the answer", "an adapter changes the answer"}
    assert "it changes by 0" in problems["noise changes the answer"]


async def test_a_mask_that_hides_what_it_should_keep_is_found(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = engine.generate

    async def less(*arguments: Any, corruptions: Any = (), **more: Any) -> Any:
        [corruption] = corruptions
        if corruption is not None and corruption.kept and not corruption.noise_steps:
            corruptions = [ImageCorruption(corruption.kept[: len(corruption.kept) // 2])]
        return await generate(*arguments, corruptions=corruptions, **more)

    monkeypatch.setattr(engine, "generate", less)
    problems = await failed(engine)
    assert problems.keys() == {"all kept equals no mask"}


async def test_what_the_engine_refuses_is_the_reason(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(engine, "generate", broken)
    problems = await failed(engine)
    assert set(problems.values()) == {"RuntimeError: no such kernel"}
    monkeypatch.setattr(engine, "start", lambda: broken())
    with pytest.raises(UnsupportedModel, match="does not start: RuntimeError: no such kernel"):
        await start_unproven(engine)


def test_without_being_asked_for_it_is_refused_by_name(model: Path) -> None:
    with pytest.raises(UnsupportedModel) as refused:
        Engine(settings(model)).read_config()
    for word in ("Glm4vForConditionalGeneration", "--unproven", *PROVEN):
        assert word in str(refused.value)


def test_what_vllm_has_not_is_refused_in_any_case() -> None:
    with pytest.raises(UnsupportedModel, match="vLLM has no multimodal model Parrot"):
        require_family("Parrot", unproven=True)


def test_graphs_of_the_tower_are_refused() -> None:
    with pytest.raises(ValidationError, match="cudagraph_mm_encoder"):
        WorkerSettings(engine_args={"compilation_config": {"cudagraph_mm_encoder": True}})
