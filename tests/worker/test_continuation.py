"""Answers that go on from where one stops, and those that end with their sentence."""

from typing import Any

import pytest
from pydantic import ValidationError
from vllm import SamplingParams

from service.broker import Broker
from service.schemas import Job, JobStatus, SampleRequest, SampleResult, assistant_turn, user_turn
from service.settings import Settings
from tests.worker.jobs import ended, working
from trainer.toy.dataset import examples, png
from worker.embedder import Embedder
from worker.engine import DecodedImage, Engine

[ITEM] = examples(1, kinds=("caption",))
QUESTION = user_turn(ITEM.prompt, images=1)


async def sampled(broker: Broker, start: str | None = None, **fields: Any) -> Job:
    """What the policy says, or how it goes on after the start of an answer."""
    body: dict[str, Any] = {
        "messages": [QUESTION] if start is None else [QUESTION, assistant_turn(start)],
        "images": [await broker.images.put(png(ITEM))],
        "continue_final_message": start is not None,
        "temperature": 0,
        "max_tokens": 60,
        **fields,
    }
    request = SampleRequest.model_validate(body)
    return await ended(broker, (await broker.jobs.enqueue(request)).id)


def result_of(job: Job) -> SampleResult:
    assert job.status is JobStatus.succeeded, job.error
    assert isinstance(job.result, SampleResult)
    return job.result


async def test_an_answer_goes_on_as_if_it_had_not_stopped(
    settings: Settings, toy: Engine, embedder: Embedder
) -> None:
    """At every word; and token-exact, as the engine itself goes on after those tokens."""
    prompt = toy.inputs.renderer.prompt([QUESTION])
    image = DecodedImage.decode("sha256:x", png(ITEM))
    async with Broker.connect(settings) as broker, working(settings, toy, embedder):
        [whole] = result_of(await sampled(broker)).responses
        words = whole.text.split(" ")
        for count in range(1, len(words)):
            start = " ".join(words[:count])
            [rest] = result_of(await sampled(broker, start + " " * (count % 2))).responses
            assert start + rest.text == whole.text
            output = await toy.generate(
                prompt.token_ids_up_to(start, len(start)),
                SamplingParams(temperature=0, max_tokens=60),
                [image],
            )
            assert rest.token_ids == list(output.outputs[0].token_ids)
            assert rest.finish_reason == whole.finish_reason == "stop"


async def test_a_response_ends_with_its_sentence(
    settings: Settings, toy: Engine, embedder: Embedder
) -> None:
    """Sentence after sentence the whole answer comes together; tokens are those of the text."""
    tokenizer = toy.inputs.renderer.tokenizer
    async with Broker.connect(settings) as broker, working(settings, toy, embedder):
        [whole] = result_of(await sampled(broker)).responses
        said = ""
        reasons: list[str] = []
        while not reasons or reasons[-1] == "sentence":
            [one] = result_of(await sampled(broker, said, stop_at="sentence", logprobs=0)).responses
            reasons.append(one.finish_reason)
            said += one.text
            written = tokenizer.decode(one.token_ids, skip_special_tokens=True)
            assert written.strip() == one.text.strip()
            assert len(one.logprobs or ()) == len(one.token_ids) == one.weight_versions[-1].end
    assert said == whole.text
    assert reasons == ["sentence"] * (whole.text.count(".") - 1) + ["stop"]


async def test_each_of_several_branches_ends_with_its_own_sentence(
    settings: Settings, toy: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, toy, embedder):
        first = "There is a"
        branches = result_of(
            await sampled(broker, first, stop_at="sentence", n=6, temperature=1.0, seed=4)
        ).responses
    texts = {first + branch.text for branch in branches}
    assert len(texts) > 1
    assert all(text.count(".") == 1 and text.endswith(".") for text in texts)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": [QUESTION]}, "must be of role assistant"),
        ({"messages": None, "prompt": "Hello?"}, "needs `messages`"),
        ({"annotator": "toy", "n": 2}, "parts of one"),
    ],
)
def test_what_cannot_go_on_is_refused(fields: dict[str, Any], reason: str) -> None:
    body = {
        "messages": [QUESTION, assistant_turn("There is")],
        "images": ["x"],
        "continue_final_message": True,
    }
    with pytest.raises(ValidationError, match=reason):
        SampleRequest.model_validate(body | fields)
    with pytest.raises(ValidationError, match="must be of role user"):
        SampleRequest.model_validate(body | {"continue_final_message": False})


async def test_a_start_with_the_placeholder_of_an_image_is_no_start(
    settings: Settings, toy: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, toy, embedder):
        job = await sampled(broker, "There is <image> a")
    assert (job.status, job.attempt) == (JobStatus.failed, 1)
    assert job.error
    assert job.error.code == "bad_conversation"
