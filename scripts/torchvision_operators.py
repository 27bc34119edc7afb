"""Make torchvision importable beside a CPU build of torch whose torchvision is a CUDA build.

Run by the set-up with the virtual environment's own Python. Does nothing where torchvision imports
as it is. Otherwise it writes a start-up hook into that environment: vLLM's LLaVA code imports
torchvision (through transformers, for pure-Python transforms only) in every process it spawns, and
torchvision registers shape functions for two operators that its compiled part would have declared.
The hook declares them just before torchvision is first imported; nobody calls them.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

HOOK = '''\
import sys


class _DeclareOperators:
    """Declares torchvision's operators when torchvision is about to be imported, once."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(cls)
        import torch

        for operator in ("torchvision::nms", "torchvision::qnms"):
            torch.library.define(
                operator, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        return None


sys.meta_path.insert(0, _DeclareOperators)
'''


def main() -> None:
    probe = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True)
    if probe.returncode == 0:
        return
    if b"operator torchvision::nms does not exist" not in probe.stderr:
        sys.exit(f"torchvision does not import:\n{probe.stderr.decode()}")
    site_packages = Path(sysconfig.get_path("purelib"))
    (site_packages / "_declare_torchvision_operators.py").write_text(HOOK)
    (site_packages / "declare_torchvision_operators.pth").write_text(
        "import _declare_torchvision_operators\n"
    )
    subprocess.run([sys.executable, "-c", "import torchvision"], check=True)


if __name__ == "__main__":
    main()
