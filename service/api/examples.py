"""An example for every call, as `/docs` shows it: what is sent, and what is answered."""

from typing import Any

from service.schemas import NamespaceSettings

IMAGE = "sha256:6c1b5f3d2f0f4f0e8f8b1c1d6f2f4a4c7d1e8a3b9c5d7e6f1a2b3c4d5e6f7a8b"
JOB_ID = "01a2150c8f3e5b7d9a1c3e5f7b9d1a3c"
DEAD_ID = "01a214ff02b4c6d8e0f2a4b6c8d0e2f4"
NOW = "2026-11-26T09:30:00Z"
SOON = "2026-11-26T09:31:00Z"
QUESTION = "Describe the image."
REFERENCE = "There is a red circle in the top left."
REJECTED = "There is a red circle in the top left, and a green star beside it."
PROMPT = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},
]


def _answer(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


PAIR: dict[str, Any] = {
    "prompt": PROMPT,
    "images": [IMAGE],
    "chosen": _answer(REFERENCE),
    "rejected": _answer(REJECTED),
    "pair_id": JOB_ID,
    "run": "main",
    "method": "bdhs-attention",
    "chosen_version": None,
    "rejected_version": 12,
    "rejected_spans": [{"start": 37, "end": 65}],
    "similarity": 0.83,
    "iterations": 1,
    "seed": 7,
    "settings": {"rho": 0.99},
    "created_at": NOW,
    "metadata": {"dataset": "mine"},
}
JOB: dict[str, Any] = {
    "id": JOB_ID,
    "kind": "bdhs",
    "status": "queued",
    "run": "main",
    "priority": "normal",
    "attempt": 0,
    "created_at": NOW,
}
DONE: dict[str, Any] = JOB | {
    "status": "succeeded",
    "attempt": 1,
    "started_at": NOW,
    "worker": "gpu-0-4711",
    "finished_at": SOON,
    "result": {
        "kind": "bdhs",
        "outcome": "pair",
        "pairs": [PAIR],
        "text": REJECTED,
        "similarity": 0.83,
        "iterations": 1,
        "trace": None,
    },
}
RUN: dict[str, Any] = {
    "name": "main",
    "settings": {
        "window": 64,
        "max_staleness": 2,
        "stale": "drop",
        "similar": "keep",
        "filters": {"rejected_tokens": {"max": 512}},
        "keep": 10000,
        "retention": None,
    },
    "epoch": "9f86d081",
    "open_jobs": 12,
    "running_jobs": 8,
    "oldest_open_at": NOW,
    "dead_jobs": 0,
    "pairs": 1024,
    "outcomes": {"pair": 1024, "same": 87, "filtered": 12},
    "filtered": {"rejected_tokens": 12},
    "distributions": {
        "iterations": {
            "count": 1024,
            "mean": 1.25,
            "buckets": [{"le": 1, "count": 768}, {"le": 2, "count": 256}, {"le": None, "count": 0}],
        }
    },
    "trimmed": 0,
    "groups": [
        {
            "name": "trainer",
            "waiting": 40,
            "leased": 8,
            "returned": 0,
            "acknowledged": 976,
            "stale": 0,
            "missed": 0,
            "redelivered": 0,
        }
    ],
}
DELIVERY = {"cursor": "9f86d081.1024-77", "staleness": 1, "stale": False, "count": 1}
BATCH: dict[str, Any] = {
    "lease": "trainer.5f1c",
    "run": "main",
    "group": "trainer",
    "expires_at": SOON,
    "pairs": [PAIR],
    "deliveries": [DELIVERY],
}
VERSION: dict[str, Any] = {
    "version": 12,
    "kind": "lora",
    "location": "s3://weights/main/12",
    "manifest_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
}
WORKER: dict[str, Any] = {
    "id": "gpu-0-4711",
    "model": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "weight_version": 12,
    "slots": 64,
    "running": 8,
    "engine_ready": True,
    "heartbeat_at": NOW,
    "kinds": ["sample", "bdhs", "logprobs"],
}
WEIGHTS: dict[str, Any] = {"newest": VERSION, "workers": [WORKER], "refused": [], "withdrawn": [11]}

REQUESTS: dict[str, Any] = {
    "sample": {"prompt": QUESTION, "images": [IMAGE], "n": 4, "temperature": 1.0, "run": "main"},
    "bdhs": {
        "prompt": QUESTION,
        "images": [IMAGE],
        "reference": REFERENCE,
        "run": "main",
        "metadata": {"dataset": "mine"},
    },
    "patch_settings": {"lease_s": 60, "max_images": 16},
    "logprobs": {
        "prompt": QUESTION,
        "images": [IMAGE],
        "responses": [REFERENCE, REJECTED],
        "views": [{}, {"rho": 1}],
    },
    "put_run": {
        "window": 64,
        "max_staleness": 2,
        "filters": {"rejected_tokens": {"max": 512}, "finish_reasons": ["stop", "sentence"]},
    },
    "post_pair": {
        "prompt": QUESTION,
        "images": [IMAGE],
        "chosen": REFERENCE,
        "rejected": REJECTED,
        "pair_id": "mine-17",
    },
    "lease": {"group": "trainer", "size": 8, "wait_s": 30},
    "renew": {"lease_s": 60},
    "post_weights": VERSION,
}
"""Bodies, by operation."""

SETTINGS = NamespaceSettings(lease_s=60, max_images=16).model_dump(mode="json")

RESPONSES: dict[str, tuple[int, Any]] = {
    "get_settings": (200, SETTINGS),
    "patch_settings": (200, SETTINGS),
    "sample": (
        200,
        DONE
        | {
            "kind": "sample",
            "result": {
                "kind": "sample",
                "responses": [
                    {
                        "text": REJECTED,
                        "finish_reason": "stop",
                        "token_ids": [1670, 338, 263, 2654, 8607],
                        "weight_versions": [{"start": 0, "end": 5, "version": 12}],
                    }
                ],
                "seed": 7,
            },
        },
    ),
    "bdhs": (200, DONE),
    "logprobs": (
        200,
        DONE
        | {
            "run": None,
            "kind": "logprobs",
            "result": {
                "kind": "logprobs",
                "responses": [
                    {
                        "token_ids": [1670, 338, 263, 2654, 8607, 2],
                        "views": [
                            {"sum": -3.5, "mean": -0.58, "weight_version": 12},
                            {"sum": -7.25, "mean": -1.21, "weight_version": 12},
                        ],
                        "image_dependence": 3.75,
                    }
                ],
                "seed": 7,
            },
        },
    ),
    "list_jobs": (200, {"jobs": [JOB], "before": JOB_ID}),
    "purge_jobs": (200, {"purged": 3}),
    "retry_job": (200, JOB | {"id": DEAD_ID}),
    "get_job": (200, DONE),
    "cancel_job": (200, JOB | {"status": "cancelled", "finished_at": SOON}),
    "job_events": (
        200,
        'event: progress\nid: 1764149400000-0\ndata: {"iteration": 1}\n\n'
        'event: status\nid: end\ndata: {"status": "succeeded", "attempt": 1, "error": null}\n\n',
    ),
    "list_runs": (200, [RUN]),
    "put_run": (200, RUN),
    "get_run": (200, RUN),
    "delete_run": (204, None),
    "get_pairs": (200, {"pairs": [PAIR], "cursor": DELIVERY["cursor"]}),
    "get_filtered": (
        200,
        {
            "pairs": [{"pair": PAIR, "filters": ["rejected_tokens"]}],
            "cursor": DELIVERY["cursor"],
        },
    ),
    "post_pair": (201, {"run": "main", "pair_id": "mine-17", "repeated": False}),
    "lease": (200, BATCH),
    "ack": (204, None),
    "nack": (204, None),
    "renew": (200, {"lease": BATCH["lease"], "expires_at": SOON}),
    "delete_group": (204, None),
    "batches": (200, 'event: batch\nid: trainer.5f1c\ndata: {"lease": "trainer.5f1c", …}\n\n'),
    "post_image": (
        201,
        {"image": IMAGE, "format": "png", "width": 336, "height": 336, "bytes": 48213},
    ),
    "get_image": (200, None),
    "post_weights": (201, WEIGHTS),
    "get_weights": (200, WEIGHTS),
    "delete_weights": (200, WEIGHTS),
    "live": (200, {"status": "ok"}),
    "ready": (200, {"status": "ok", "redis": True, "workers": [WORKER]}),
    "metrics": (200, 'prefstream_jobs_queued{priority="normal"} 12.0\n'),
}
"""Status and body of the answer to each operation; None: it has none, or it is no text."""
