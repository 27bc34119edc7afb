"""`prefstream work` as people start it, beside workers that live."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.broker import Broker
from service.checkpoints.input_processor import load_input_processor
from service.schemas import InputDigest, WorkerInfo
from service.settings import Settings
from tests.servers import Server
from tests.worker import checkpoints
from worker.settings import WorkerSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that no engine can load: it has no weights."""
    folder = checkpoints.llava(tmp_path_factory.mktemp("model"))
    (folder / "model.safetensors").unlink()
    return folder


def work(server: Server, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "work", "--embedder", "embedded", *arguments]
    environment = {
        **os.environ,
        "PREFSTREAM_REDIS_URL": server.url,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "PREFSTREAM_WORKER_GPU_MEMORY_UTILIZATION": "0.1",
    }
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=240
    )


async def lives(server: Server, model: str, digest: InputDigest | None, namespace: str) -> None:
    """A worker of this model is registered."""
    settings = Settings.model_validate(
        {"redis_url": server.url, "namespace": namespace, "worker_ttl_s": 900}
    )
    async with Broker.connect(settings) as broker:
        await broker.workers.heartbeat(
            WorkerInfo(
                id="first",
                model=model,
                weight_version=0,
                slots=1,
                running=0,
                engine_ready=True,
                heartbeat_at=datetime.now(UTC),
                input_digest=digest,
            )
        )


@pytest.mark.timeout(500)
async def test_a_worker_refuses_beside_one_that_differs_before_it_loads(
    server: Server, model: Path, tmp_path: Path
) -> None:
    digest = load_input_processor(str(model), WorkerSettings()).digest
    template = tmp_path / "template.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}{{ m.role }}: {% endfor %}")
    await lives(server, "/models/other", digest, "another-model")
    await lives(server, str(model), digest, "another-template")

    refused = work(server, "--model", str(model), "--namespace", "another-model", cwd=tmp_path)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    said = refused.stderr.splitlines()[-1]
    assert f"This worker is for {model}, and worker first of the namespace 'another-mo" in said
    assert "serves /models/other" in said
    assert "these differ in: model. " in said
    assert "with --namespace" in said
    assert "it is forgotten in " in said
    assert "Traceback" not in refused.stderr

    refused = work(  # the same folder by a shorter name, with a template of its own
        server,
        *("--model", model.name, "--chat-template", str(template)),
        *("--namespace", "another-template"),
        cwd=model.parent,
    )
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "these differ in: chat_template. " in refused.stderr.splitlines()[-1]
    for output in (refused.stdout, refused.stderr):
        assert "engine starting" not in output
