"""Every format says all that a pair says, or leaves it out and says why."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefstream import export
from service.schemas import Message, Pair, assistant_turn, user_turn
from tests.servers import Server
from tests.trainer.export.made import RUN, pairs, pieces, plain, put
from tests.trainer.export.read_back import PICTURES, read_back
from trainer.export.formats import FORMATS

TAGS = {
    "ms-swift": {
        *("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>"),
        *("<start-image>", "<img>"),
    },
    "llamafactory": {"<image>", "<video>", "<audio>"},
    "internvl": {"<image>"},
}
"""What the trainers' own code replaces in a text."""


def can_say(to: str, pair: Pair) -> bool:
    """Whether the trainer of a format can be given this pair."""
    if to not in TAGS:
        return True
    turns = [*pair.prompt, *pair.chosen, *pair.rejected]
    texts = [text for turn in turns for text in pieces(turn) if text is not None]
    if any(tag in text for text in texts for tag in TAGS[to]):
        return False
    roles = [turn.role for turn in pair.prompt]
    if to == "internvl":
        return roles == ["user"]
    if roles[0] == "system" and None in pieces(pair.prompt[0]):
        return False
    roles = roles[roles[0] == "system" :]
    return roles == (["user", "assistant"] * len(roles))[: len(roles)] and len(roles) % 2 == 1


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_read_back_is_what_the_run_has(server: Server, data: st.DataObject) -> None:
    server.flush()
    count = data.draw(st.integers(1, 8))
    made = [data.draw(pairs(list(PICTURES), f"p{number}")) for number in range(count)]
    put(server.url, made)
    for to in FORMATS:
        said = [pair for pair in made if can_say(to, pair)]
        with TemporaryDirectory() as folder:
            tally = export(RUN, to=to, out=folder, url=server.url)
            found = read_back(to, Path(folder)) if said else []
        assert [plain(pair) for pair in found] == [plain(pair) for pair in said], to
        assert (tally.read, tally.written) == (len(made), len(said))
        assert sum(tally.left_out.values()) == len(made) - len(said)


def pair_of(prompt: list[Message], chosen: str = "Yes.", images: int = 0) -> Pair:
    return Pair(
        prompt=prompt,
        images=list(PICTURES)[:images],
        chosen=[assistant_turn(chosen)],
        rejected=[assistant_turn("No.")],
        pair_id="p",
        run=RUN,
        method="online",
        chosen_version=0,
        rejected_version=0,
        rejected_spans=[],
        similarity=None,
        iterations=None,
        seed=1,
        created_at="2026-01-01T00:00:00Z",  # pyright: ignore[reportArgumentType]
    )


SYSTEM = Message(role="system", content="Be brief.")
TALK = [user_turn("A?", 1), assistant_turn("B."), user_turn("C?", 1)]


@pytest.mark.parametrize(
    ("to", "pair", "reason"),
    [
        ("internvl", pair_of([SYSTEM, user_turn("?", 0)]), "more than one question"),
        ("internvl", pair_of(TALK, images=2), "more than one question"),
        ("ms-swift", pair_of([user_turn("A?", 0), user_turn("B?", 0)]), "by turns"),
        ("llamafactory", pair_of([user_turn("A?", 0), SYSTEM, user_turn("B?", 0)]), "by turns"),
        ("llamafactory", pair_of([user_turn("?", 0)], chosen="It is <image>."), "holds `<image>`"),
        ("ms-swift", pair_of([user_turn("<bbox>?", 0)]), "holds `<bbox>`"),
        ("trl", pair_of([user_turn("?", 1)], images=2), "one place for each image"),
        ("trl-kto", pair_of([user_turn("?", 2)], images=1), "one place for each image"),
    ],
)
def test_what_a_format_cannot_say_is_left_out_with_its_reason(
    to: str, pair: Pair, reason: str, server: Server, tmp_path: Path
) -> None:
    fine = pair_of([user_turn("?", 1)], images=1)
    put(server.url, [pair, fine, pair])
    tally = export(RUN, to=to, out=tmp_path / "out", url=server.url)
    assert [plain(found) for found in read_back(to, tmp_path / "out")] == [plain(fine)]
    [(said, count)] = tally.left_out.items()
    assert reason in said
    assert count == 2


@pytest.mark.parametrize("to", ["ms-swift", "llamafactory", "trl", "trl-kto", "hf"])
def test_system_prompts_turns_and_images_survive(to: str, server: Server, tmp_path: Path) -> None:
    made = [pair_of([SYSTEM, *TALK], images=2)]
    put(server.url, made)
    export(RUN, to=to, out=tmp_path / "out", url=server.url)
    assert [plain(found) for found in read_back(to, tmp_path / "out")] == [plain(made[0])]
