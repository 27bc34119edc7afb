"""Full weights into a running engine, and which of them wrote what."""

from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput
from vllm.v1.engine.async_llm import AsyncLLM

from service.schemas import WeightSpan


async def replace_weights(llm: AsyncLLM, folder: Path, version: int) -> None:
    """Everything that a change of weights is, in an engine in which nothing runs.

    The one place to bring weights in by another way: with vLLM's own transfer over NCCL, the
    trainer sends tensors and `reload_weights` becomes `start_weight_update`, `update_weights`
    for each chunk, `finish_weight_update` (after one `init_weight_transfer_engine`). What must
    hold is the same: all of it arrives or this fails, caches go, the version is told.
    """
    await llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
    # What was computed with the old weights goes: key-value blocks, also those of requests that
    # are held, and image embeddings. vLLM knows nothing of caches of ours: a model of the
    # plugin that keeps something clears it in its `load_weights`. The caches of processed
    # images hold pixels and stay: clearing their two ends while requests come loses some.
    if not await llm.reset_prefix_cache(reset_running_requests=True, reset_connector=True):
        raise RuntimeError("vLLM did not reset its prefix cache")
    await llm.reset_encoder_cache()
    await llm.update_weight_version(str(version))


def weight_spans(written: CompletionOutput, lora: LoRARequest | None) -> list[WeightSpan]:
    """Which weight version wrote which of a finished request's tokens.

    A request keeps its adapter from start to end. Full weights change under it: vLLM names, for
    every token, the version it was told of by `replace_weights`.
    """
    if lora is not None:
        version = lora.lora_int_id
        return [WeightSpan(start=0, end=len(written.token_ids), version=version)]
    spans = written.weight_versions or ()
    return [WeightSpan(start=s.start, end=s.end, version=int(s.version)) for s in spans]
