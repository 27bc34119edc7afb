"""The wheel, built and installed into a fresh environment: an editable installation hides what is
not packaged. Only the dependencies are the ones that are here."""

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import zipfile
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from tests.processes import wait_until_up
from tests.servers import free_port
from trainer.toy.dataset import examples, png

ROOT = Path(__file__).parents[1]

PACKAGES = {"prefstream", "service", "worker", "trainer"}

pytestmark = pytest.mark.timeout(900)

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PREFSTREAM_", "PYTHON", "VIRTUAL_ENV"))
}


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [*map(str, command)], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked() -> list[str]:
    listed = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard")
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", built, source),
    )
    [wheel] = built.iterdir()
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and sees our dependencies."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--no-deps", "--no-index", wheel),
    )
    # Plain lines: `site.addsitedir` would run those folders' own .pth files, and one of them leads
    # back to the sources.
    lines = [path for path in sys.path if path.endswith("site-packages")]
    assert set(site.getsitepackages()) <= set(lines)
    if find_spec("_declare_torchvision_operators"):  # see scripts/torchvision_operators.py
        lines.append("import _declare_torchvision_operators")
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    (packages / "dependencies.pth").write_text("\n".join(lines) + "\n")
    return python


def test_everything_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packaged = set(archive.namelist())
    assert {name for name in tracked() if name.split("/")[0] in PACKAGES} <= packaged
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in packaged)
    assert {name.split("/")[0] for name in packaged if ".dist-info/" not in name} == PACKAGES


def test_the_installed_wheel_makes_a_pair(python: Path, tmp_path: Path) -> None:
    fresh = python.parents[1]
    program = """
import importlib.metadata, json, prefstream, service, trainer, worker
from service.web import render_pairs
distribution = importlib.metadata.distribution("prefstream")
places = [m.__file__ for m in (prefstream, service, trainer, worker)]
page = render_pairs([], title="A page")
print(json.dumps({"places": [*places, str(distribution.locate_file(""))], "page": page}))
"""
    told = json.loads(run(python, "-P", "-c", program))
    assert all(Path(place).is_relative_to(fresh) for place in told["places"]), told["places"]
    assert '<h1 dir="auto">A page</h1>' in told["page"]

    folder, said = tmp_path / "empty", tmp_path / "said"
    folder.mkdir()
    url = f"http://127.0.0.1:{(port := free_port())}"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [python.parent / "prefstream", "up", "--port", str(port)],
            cwd=folder,
            env=ENVIRONMENT,
            stderr=output,
        )
    try:
        wait_until_up(process, said, folder / ".prefstream" / "worker.log")
        [item] = examples(1)
        body = {
            "prompt": item.prompt,
            "images": [b64encode(png(item)).decode()],
            "reference": item.reference,
            "rho": 0.9,
            "run": "wheel",
        }
        job = httpx.post(f"{url}/bdhs", params={"wait_s": 120}, json=body, timeout=150)
        assert job.status_code == 200, job.text
        [pair] = httpx.get(f"{url}/runs/wheel/pairs").json()["pairs"]
        assert pair["pair_id"] == job.json()["id"]
        assert pair["chosen"] != pair["rejected"]
        assert httpx.get(f"{url}/docs").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()
