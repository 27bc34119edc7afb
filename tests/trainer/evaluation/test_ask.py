"""Answers that are kept, also by a run that was killed while it wrote."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from service.client import AsyncClient
from trainer.data import InvalidDataset
from trainer.evaluation.ask import Answer, Asker


def asker(saved: Path) -> Asker:
    return Asker(AsyncClient("http://127.0.0.1:1"), max_tokens=8, saved=saved)


def test_a_last_line_that_was_cut_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    answer = Answer("Yes — Ω", 0, False)
    lines = [json.dumps({"key": key, **asdict(answer)}, ensure_ascii=False) for key in ("a", "b")]
    first, second = (f"{line}\n".encode() for line in lines)
    for cut in range(len(second)):
        file.write_bytes(first + second[:cut])
        kept = asker(file)
        assert kept._known == {"a": answer}
        kept._save("c", answer)  # on a line of its own
        assert asker(file)._known == {"a": answer, "c": answer}
    file.write_bytes(first + b"\n" + second)
    assert asker(file)._known == {"a": answer, "b": answer}


@pytest.mark.parametrize("line", ["nothing", "7", '{"key": "a"}', '{"text": "Yes"}', "[]"])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, line: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(f"\n{line}\nand more")
    with pytest.raises(InvalidDataset, match=r"answers\.jsonl, line 2, is no answer that was kept"):
        asker(file)
    assert file.read_text() == f"\n{line}\nand more"
