"""What is free is the smaller of the machine's and what a container's limit leaves."""

from pathlib import Path

import psutil

from worker.engine.free_memory import _left_by_cgroups, free_memory

UNLIMITED_V1 = 9223372036854771712


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def in_cgroup(root: Path, line: str) -> None:
    group(root / "proc/self", cgroup=line)


def test_of_this_machine() -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total


def test_no_cgroups(tmp_path: Path) -> None:
    assert _left_by_cgroups(tmp_path) == []


def test_version_2_in_a_container(tmp_path: Path) -> None:
    """The container's own group is the top; its page cache can be had."""
    in_cgroup(tmp_path, "0::/")
    top = tmp_path / "sys/fs/cgroup"
    group(top, memory__max=1000, memory__current=700, memory__stat="anon 500\ninactive_file 150")
    assert _left_by_cgroups(tmp_path) == [1000 - 700 + 150]


def test_version_2_on_a_host(tmp_path: Path) -> None:
    """A limit may be set on the process's own group, and on any above it."""
    in_cgroup(tmp_path, "0::/user.slice/job.scope")
    top = tmp_path / "sys/fs/cgroup"
    stat = "inactive_file 0"
    group(top)
    group(top / "user.slice", memory__max=900, memory__current=100, memory__stat=stat)
    group(top / "user.slice/job.scope", memory__max="max", memory__current=5, memory__stat=stat)
    group(top / "other", memory__max=1, memory__current=1, memory__stat=stat)
    assert _left_by_cgroups(tmp_path) == [800]


def test_version_1(tmp_path: Path) -> None:
    in_cgroup(tmp_path, "4:memory:/pods/one\n1:cpu,cpuacct:/pods/one\n0::/")
    memory = tmp_path / "sys/fs/cgroup/memory"
    unlimited = {
        "memory__limit_in_bytes": UNLIMITED_V1,
        "memory__usage_in_bytes": 70,
        "memory__stat": "total_inactive_file 20",
    }
    group(memory, **unlimited)
    group(memory / "pods/one", **unlimited | {"memory__limit_in_bytes": 100})
    assert min(_left_by_cgroups(tmp_path)) == 100 - 70 + 20


def test_version_1_in_a_container(tmp_path: Path) -> None:
    """It names the host's group, and sees its own at the top."""
    in_cgroup(tmp_path, "4:memory:/docker/0123")
    group(
        tmp_path / "sys/fs/cgroup/memory",
        memory__limit_in_bytes=100,
        memory__usage_in_bytes=70,
        memory__stat="total_inactive_file 0",
    )
    assert _left_by_cgroups(tmp_path) == [30]
