"""The service is light: whoever only serves or asks needs no GPU library."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "vllm", "transformers", "sentence_transformers", "trl", "numpy")


@pytest.mark.parametrize("module", ["service.api", "service.client", "service.broker"])
def test_no_heavy_library_is_imported(module: str) -> None:
    program = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
