"""What the methods draw, and that a resumed line draws what it would have drawn."""

from dataclasses import replace

import pytest

from service.schemas import Message
from tests.trainer.stream.test_ledger import pair
from trainer.data import SECOND_REJECTED
from trainer.stream.mixing import AveragedRows, MixedRows
from trainer.stream.offline import OfflineRows
from trainer.stream.rows import Row
from trainer.stream.usable import UnusableRow


def rows(prefix: str, count: int) -> list[Row]:
    return [Row(pair(f"{prefix}{n}"), [], staleness=None) for n in range(count)]


class Endless:
    """Online rows r0, r1, … of staleness 1, each with the data set's rejected text."""

    def __init__(self, start: int = 0) -> None:
        self.next = start

    def draw(self, count: int) -> list[Row]:
        numbers = range(self.next, self.next + count)
        self.next += count
        return [
            Row(
                pair(f"r{n}").model_copy(update={"metadata": {SECOND_REJECTED: f"second {n}"}}),
                [],
                staleness=1,
            )
            for n in numbers
        ]


def ids(drawn: list[Row]) -> list[str]:
    return [row.pair.pair_id for row in drawn]


def text(turns: list[Message]) -> str:
    [turn] = turns
    [part] = turn.parts
    return part.model_dump()["text"]


def test_offline_goes_through_all_rows_each_time_in_another_order():
    offline = OfflineRows(rows("d", 5), seed=0)
    first, second = ids(offline.draw(5)), ids(offline.draw(5))
    assert sorted(first) == sorted(second) == ["d0", "d1", "d2", "d3", "d4"]
    assert first != second
    assert ids(OfflineRows(rows("d", 5), seed=1).draw(5)) != first


def test_a_resumed_offline_line_goes_on_where_it_was():
    whole = ids(OfflineRows(rows("d", 5), seed=0).draw(14))
    assert ids(OfflineRows(rows("d", 5), seed=0, start=8).draw(6)) == whole[8:]


def test_mixed_draws_each_example_by_chance():
    drawn = MixedRows(Endless(), rows("d", 50), p=0.25, seed=0).draw(2000)
    share = sum(name.startswith("d") for name in ids(drawn)) / 2000
    assert share == pytest.approx(0.25, abs=0.03)  # three standard errors
    online = [name for name in ids(drawn) if name.startswith("r")]
    assert online == [f"r{n}" for n in range(len(online))]  # none left out, in order


@pytest.mark.parametrize(("p", "prefix"), [(0.0, "r"), (1.0, "d")])
def test_mixed_at_the_ends_is_one_of_the_two(p: float, prefix: str):
    drawn = MixedRows(Endless(), rows("d", 5), p=p, seed=0).draw(20)
    assert all(name.startswith(prefix) for name in ids(drawn))


def test_a_resumed_mixed_line_draws_what_it_would_have_drawn():
    whole = ids(MixedRows(Endless(), rows("d", 7), p=0.5, seed=3).draw(40))
    had = sum(name.startswith("r") for name in whole[:24])
    resumed = MixedRows(Endless(had), rows("d", 7), p=0.5, seed=3, start=24)
    assert ids(resumed.draw(8)) + ids(resumed.draw(8)) == whole[24:]


def test_averaged_makes_two_rows_of_a_pair_and_their_weights_sum_to_it():
    drawn = AveragedRows(Endless(), gamma=0.25).draw(2)
    assert [(row.pair.pair_id, text(row.pair.rejected), row.weight) for row in drawn] == [
        ("r0", "second 0", 0.5),
        ("r1", "second 1", 0.5),
        ("r0", "no", 1.5),
        ("r1", "no", 1.5),
    ]
    assert [row.staleness for row in drawn] == [None, None, 1, 1]


def test_averaged_refuses_a_pair_without_a_second_rejected_side():
    class Plain(Endless):
        def draw(self, count: int) -> list[Row]:
            return [
                replace(row, pair=row.pair.model_copy(update={"metadata": {}}))
                for row in super().draw(count)
            ]

    with pytest.raises(UnusableRow, match=r"no second side: .*'dataset_rejected'"):
        AveragedRows(Plain(), gamma=0.5).draw(1)


def test_a_data_set_without_pairs_is_refused():
    with pytest.raises(ValueError, match="the data set has no pairs"):
        OfflineRows([], seed=0)
