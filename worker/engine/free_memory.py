"""How much memory this process may still take, on a CPU."""

from pathlib import Path

from vllm.utils.cpu_resource_utils import get_allowed_cpu_list, get_memory_node_info

CGROUP_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
CGROUP_V2 = ("memory.max", "memory.current", "inactive_file")
"""Files of a limit and of what is used of it, and the line of `memory.stat` for the page cache,
which the kernel gives up when somebody needs it."""


def free_memory() -> int:
    """Bytes: the smaller of what the machine has free and what the limits of containers leave.

    The machine is the memory node that vLLM keeps an engine to.
    """
    node = get_memory_node_info(get_allowed_cpu_list()[0].numa_node)
    return min([node.available_memory, *_left_by_cgroups(Path("/"))])


def _left_by_cgroups(root: Path) -> list[int]:
    """Bytes that each limit on a cgroup of this process, or on one above it, leaves.

    root: of the file system, where /proc and /sys are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, names = ("memory", CGROUP_V1) if controllers else (".", CGROUP_V2)
        top = root / "sys/fs/cgroup" / mount
        group = top / path.lstrip("/")
        # In a container the path may be the host's, and only the top can be seen.
        for folder in {group, *group.parents, top}:
            if folder == top or top in folder.parents:
                left += _left_by(folder, *names)
    return left


def _left_by(group: Path, limit: str, used: str, cached: str) -> list[int]:
    try:
        allowed = int((group / limit).read_text())  # "max": none
        taken = int((group / used).read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    return [allowed - taken + int(counts.get(cached, 0))]
