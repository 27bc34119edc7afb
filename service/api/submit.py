"""POST /sample, /bdhs and /logprobs: jobs come in."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from service.api.bodies import StrictJsonRoute
from service.api.dependencies import Caller, CallerDep, Prefer, WaitS, wait_seconds
from service.api.problems import RESPONSES, problem_response
from service.problems import job_problem
from service.schemas import BdhsRequest, Job, JobRequest, LogprobsRequest, SampleRequest

router = APIRouter(tags=["jobs"], route_class=StrictJsonRoute)

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="A POST that is repeated within a day with the same key and body returns the "
        "first job, or 410 if that has ended and is no longer kept.",
    ),
]

JOB_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Job, "description": "The job ended within the time the caller waits."},
    202: {"model": Job, "description": "Accepted; `Location` is where to look."},
    **RESPONSES,
}


@router.post("/sample", summary="Sample n responses", status_code=202, responses=JOB_RESPONSES)
async def sample(
    body: SampleRequest,
    caller: CallerDep,
    wait_s: WaitS = None,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Asks the policy for `n` responses to a prompt, with or without images."""
    seconds = wait_seconds(wait_s, prefer)
    return await _accept(caller, body, idempotency_key, seconds)


@router.post("/bdhs", summary="Make a rejected response", status_code=202, responses=JOB_RESPONSES)
async def bdhs(
    body: BdhsRequest,
    caller: CallerDep,
    wait_s: WaitS = None,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Hides parts of the image from the policy, lets it rewrite the trusted `reference`, and pairs
    the two: the reference as chosen, the rewrite as rejected."""
    seconds = wait_seconds(wait_s, prefer)
    return await _accept(caller, body, idempotency_key, seconds)


@router.post("/logprobs", summary="Score given responses", status_code=202, responses=JOB_RESPONSES)
async def logprobs(
    body: LogprobsRequest,
    caller: CallerDep,
    wait_s: WaitS = None,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """How likely the policy finds each response to a prompt, with the images whole, partly hidden,
    under noise, or without them."""
    seconds = wait_seconds(wait_s, prefer)
    return await _accept(caller, body, idempotency_key, seconds)


async def _accept(
    caller: Caller,
    body: JobRequest,
    idempotency_key: str | None,
    seconds: float,
) -> Response:
    # The fingerprint is taken after the images were replaced by their hashes: the same picture,
    # sent as bytes or by name, is the same request.
    jobs = caller.app_state.broker.jobs
    request = await caller.app_state.intake.request(
        body, lambda: jobs.check_room(body.run, idempotency_key)
    )
    job = await jobs.enqueue(request, idempotency_key=idempotency_key)
    headers = {"Location": f"/jobs/{job.id}"}
    if seconds > 0:
        job = await caller.wait_for_job(job.id, seconds) or job
        if problem := job_problem(job):
            return problem_response(problem, headers)
    done = seconds > 0 and job.ended
    return Response(
        job.model_dump_json(),
        status_code=200 if done else 202,
        media_type="application/json",
        headers=headers,
    )
