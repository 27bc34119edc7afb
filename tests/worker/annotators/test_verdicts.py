"""How a judge's answer is read: rightly, or not at all."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.annotators.verdicts import parse_verdict

FIRST = [
    "Response 1",
    "Response 1\nIt is true.",
    "**Response 1**\nbecause the other invents a dog.",
    "`Response 1`.",
    "“Response 1”",
    "RESPONSE #1",
    "Response One",
    "Response (1)",
    "Answer A",
    "Option A is better.",
    "Assistant A is the better one.",
    "Caption 1 wins.",
    "The first",
    "The first response is better.",
    "The first one is clearly better, because the second invents a dog.",
    "The former.",
    "The former is better.",
    "1",
    "A",
    "[[A]]",
    r"\boxed{1}",
    r"Verdict: \boxed{\text{Response 1}}",
    "<verdict>Response 1</verdict>",
    "<think>Response 2 is better. No.</think>\nResponse 1",
    "Better response: Response 1",
    "The better response is Response 1.",
    "Verdict: Response 1 – the other invents a dog.",
    "Verdict: **Response 1** (the other invents a dog)",
    "Final verdict:\n\nResponse 1",
    "### Verdict\n**Response 1**",
    "Winner: A",
    "My choice is the first response.",
    "I prefer Response 1.",
    "I would choose Response 1 over Response 2.",
    "Response 1 is better than Response 2.",
    "Response 2 is worse than Response 1.",
    "Response 2 is worse.",
    "I looked closely. Response 1 is clearly better, since Response 2 invents.",
    "Both responses mention the cat. Response 2 adds a dog. So Response 1 is better.",
    "The first response is more accurate and therefore better.",
    "Based on the image, Response 1 is better.",
    "I'd go with the first.",
    "Response 1, because it is true.",
    "A.",
    "Both responses mention the cat, but Response 1 is better.",
    "Since Response 2 invents a dog, Response 1 is better.",
    "Although both are short, Response 1 is better.",
    "Response 1: It shows a cat.\nResponse 2: It shows a dog.\nOverall, Response 1 is better.",
    "**Response 1**\nIt is true.\n**Response 2**\nIt invents.\n\n**Verdict:** Response 1",
    "1. Response 2 invents a dog.\n2. Response 1 does not.\n\nTherefore, Response 1 is better.",
    "Tie: no.\nVerdict: Response 1",
    "Response 2 is not better. Response 1 is better.",
    '{"verdict": "Response 1", "reason": "The other invents a dog."}',
    '```json\n{"winner": 1}\n```',
    '{"reason": "Response 2 invents.", "better_response": "A", "tie": false}',
]

TIE = [
    "Tie",
    "**Tie**\nBoth say the same.",
    "Tie: both say the same.",
    "It's a tie.",
    "Verdict: Tie",
    "I call it a draw.",
    "Neither. Both are wrong.",
    "Neither response is better.",
    "Neither Response 1 nor Response 2 is better.",
    "Both are equally good.",
    '{"winner": "tie"}',
    '{"tie": true}',
]

UNREADABLE = [
    "",
    "There is a red circle.",
    "Response 12",
    "Response 1 invents a dog.",
    "Response 1 and Response 2 say the same.",
    "Response 1 or Response 2",
    "Response 1/Response 2",
    'Write only "Response 1", "Response 2" or "Tie" on the first line.',
    # discussed, and not decided
    "Response 1: It mentions a cat.",
    "Response 1: It mentions a cat. Response 2: It mentions a dog.",
    "Response 1\nIt mentions a cat.\nResponse 2\nIt mentions a dog.",
    "Response 1 - mentions a cat\nResponse 2 - mentions a dog",
    "### Response 1\nIt mentions a cat.",
    "1. Response 2 invents a dog.",
    "1. The first thing to see is a cat.",
    "A cat is to be seen.",
    "First, I look at the image.",
    "The first sentence is better.",
    '{"response_1": 7, "response_2": 9}',
    "| Response 1 | 5 |\n| Response 2 | 4 |",
    # denied
    "Response 2 is not better.",
    "Response 2 isn't better than Response 1, but shorter.",
    "I do not think Response 2 is better.",
    "I don't prefer Response 2.",
    "It is not true that Response 2 is better.",
    "Verdict: not Response 2",
    "Response 2 is no worse.",
    "Tie: no",
    "Tie? No.",
    "Not a tie.",
    '{"tie": false}',
    '{"response_1_is_better": false}',
    "Response 1 is better: no.",
    # hedged, asked, quoted
    "Is Response 2 better?",
    "Response 2 is better?",
    "If length counted, Response 2 is better.",
    "It is unclear whether Response 2 is better.",
    "One might say that Response 2 is better.",
    "At first glance Response 2 is better.",
    "Response 2 says: Response 2 is better.",
    "Response 2 is better, but it invents a dog.",
    "The worse response is Response 2.",
    # of one aspect
    "In help, Response 2 is better.",
    "As for help, Response 2 is better.",
    "Response 2 is better in detail.",
    "Response 2 is more detailed.",
    "Response 2 is better written.",
    # contradictory
    "Response 1 is better in truth. In help, Response 2 is better.",
    "On truth Response 1 is better, on help Response 2 is better.",
    "Response 1\nResponse 2 is better, since it invents nothing.",
    "Response 1 is better. Response 2 is better.",
    "Response 1 is better than Response 1.",
    "Response 1 is better. Wait, that is wrong.",
    "Tie. Response 1 is better.",
    "Tie, but Response 1 is better.",
    '{"winner": "Response 1", "reason": "Response 2 is better."}',
    "<think>Response 1 is better.",
]

OTHER = {"1": "2", "A": "B", "One": "Two", "first": "second", "former": "latter", "#1": "#2"}


def swapped(text: str) -> str:
    both = OTHER | {b: a for a, b in OTHER.items()}
    names = r"\b(first|second|former|latter)\b|(?<=(?:se|er|nt) #)[12]\b|(?<=SE #)[12]\b"
    text = re.sub(names, lambda m: both[m[0]], text)
    noun = r"(?i)\b(response|answer|option|assistant|caption)([ _]\(?)(1|2|A|B|One|Two)\b"
    text = re.sub(noun, lambda m: f"{m[1]}{m[2]}{both[m[3]]}", text)
    return re.sub(
        r"^([12A])$|^A(?=\.$)|(?<=\[\[)A|(?<=boxed\{)1|(?<=winner\": )1|(?<=: )A$|(?<=: \")A",
        lambda m: both[m[0]],
        text,
    )


@pytest.mark.parametrize("text", FIRST)
def test_one_is_better(text: str) -> None:
    assert parse_verdict(text).choice == "first"
    assert parse_verdict(swapped(text)).choice == "second"
    assert parse_verdict(text).text == text


def test_the_former_is_who_was_named_first() -> None:
    text = "Response 1 is true, unlike Response 2. The {} is better."
    assert parse_verdict(text.format("former")).choice == "first"
    assert parse_verdict(text.format("latter")).choice == "second"
    text = "Response 2 is true, unlike Response 1. The {} is better."
    assert parse_verdict(text.format("former")).choice == "unreadable"


@pytest.mark.parametrize("text", TIE)
def test_ties(text: str) -> None:
    assert parse_verdict(text).choice == "tie"


@pytest.mark.parametrize("text", UNREADABLE)
def test_rather_unreadable_than_wrong(text: str) -> None:
    assert parse_verdict(text).choice == "unreadable"
    assert parse_verdict(swapped(text)).choice == "unreadable"


NAMES = [("Response 1", "Response 2"), ("Answer A", "Answer B"), ("the first", "the second")]
SAID = [
    "{0} mentions a cat",
    "{0} invents a dog, and {1} does not",
    "in {0} the colours are right",
    "{0} is longer than {1}",
    "{0} is not better",
    "both {0} and {1} say that there is a table",
]
VERDICTS = ["{0} is better", "I prefer {0}", "Verdict: {0}", "{0} wins", "{1} is worse than {0}"]
discussions = st.lists(
    st.tuples(st.sampled_from(SAID), st.sampled_from([". ", ".\n", ";\n"])), max_size=5
).map(lambda said: "".join(f"{text}{end}" for text, end in said))


@given(discussions, st.sampled_from(VERDICTS), discussions, st.sampled_from(NAMES))
def test_swapping_the_names_swaps_the_verdict(
    before: str, verdict: str, after: str, names: tuple[str, str]
) -> None:
    text = f"{before}{verdict}.\n{after}"
    one, two = names
    assert parse_verdict(text.format(one, two)).choice == "first"
    assert parse_verdict(text.format(two, one)).choice == "second"
    assert parse_verdict(f"{text}{verdict}.".format(two, one)).choice == "second"
    assert parse_verdict(text.format(one, two) + verdict.format(two, one)).choice == "unreadable"


@given(discussions, st.sampled_from(NAMES))
def test_a_discussion_without_a_verdict_is_unreadable(text: str, names: tuple[str, str]) -> None:
    assert parse_verdict(text.format(*names)).choice == "unreadable"


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert parse_verdict(text).text == text


def test_long_answers_come_to_an_end() -> None:
    for piece in ("so ", "since a, ", "Response 1 is better, ", "{", '{"a":', "[", "the former "):
        assert parse_verdict(piece * (3900 // len(piece))).choice == "unreadable"
    assert parse_verdict("Response 1\n" + "because " * 10_000).choice == "unreadable"
