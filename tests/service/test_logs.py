"""What the processes log, on a terminal and elsewhere."""

import json
import os
import pty
import subprocess
import sys

PROGRAM = """
import logging, warnings
import structlog
from service import logs
logs.configure()
structlog.contextvars.bind_contextvars(job="j1", run="r", attempt=2, version=7)
structlog.get_logger().warning("refused", reason="too wide")
logging.getLogger("uvicorn.error").warning("no %s", "good")
logging.getLogger("uvicorn.error").info("unheard")
warnings.warn("mind the gap")
def fail(key):
    return 1 / 0
try:
    fail("s3cret" + "-key")
except ZeroDivisionError:
    structlog.get_logger().exception("broke")
"""


def test_json_lines_with_what_the_job_is() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"].split("\n")[0].split(": ")[-1] for line in lines] == [
        "refused",
        "no good",
        "mind the gap",
        "broke",
    ]
    for line in lines:
        assert (line["job"], line["run"], line["attempt"], line["version"]) == ("j1", "r", 2, 7)
        assert line["timestamp"].endswith("Z")
    assert [line["level"] for line in lines] == ["warning", "warning", "warning", "error"]
    assert lines[0]["reason"] == "too wide"
    assert lines[1]["logger"] == "uvicorn.error"
    assert "ZeroDivisionError" in lines[3]["exception"]


def test_lines_for_people_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs) as process:
        os.close(theirs)
        said = b""
        try:
            while some := os.read(ours, 65536):
                said += some
        except OSError:  # Linux's word for the end of a terminal
            pass
        assert process.wait() == 0
    os.close(ours)
    assert b"refused" in said
    assert b"no good" in said
    assert b"ZeroDivisionError" in said
    assert b"s3cret-key" not in said, "tracebacks show no local variable"
    assert b'{"' not in said
