"""An engine must not outlive its worker: it would keep the GPU's memory and serve nobody."""

import multiprocessing
import os
import signal
import threading


def exit_with_parent() -> None:
    """In a process that vLLM spawned: be killed when the process that spawned it is gone.

    vLLM ends its processes in order when its owner stops; a SIGKILL of the owner leaves them.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
