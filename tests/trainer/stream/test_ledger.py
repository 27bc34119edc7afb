"""The ledger, against leases that fail in every way. (That a service behaves so: test_kills.)"""

from datetime import UTC, datetime

from service.client import LeaseLost, ServiceUnreachable
from service.schemas import Batch, Pair, Problem, user_turn
from trainer.stream.ledger import Ledger


class FakeLease:
    def __init__(self, lease: str, *pair_ids: str, fails: Exception | None = None) -> None:
        self.batch = Batch(
            lease=lease,
            run="r",
            group="trainer",
            expires_at=datetime.now(UTC),
            pairs=[pair(pair_id) for pair_id in pair_ids],
            deliveries=[],
        )
        self.fails = fails
        self.ended: str | None = None

    def ack(self) -> None:
        self._end("acknowledged")

    def nack(self) -> None:
        self._end("handed back")

    def _end(self, how: str) -> None:
        if self.fails:
            raise self.fails
        self.ended = how


def pair(pair_id: str) -> Pair:
    return Pair.offline(
        prompt=[user_turn("?", 0)],
        images=[],
        chosen="yes",
        rejected="no",
        pair_id=pair_id,
        run="r",
        created_at=datetime.now(UTC),
        metadata={},
    )


GONE = LeaseLost(Problem(title="", status=410, code="lease_lost", detail=""))
AWAY = ServiceUnreachable(Problem(title="", status=503, code="unreachable", detail="no route"))


def admitted(ledger: Ledger, lease: FakeLease) -> list[str]:
    return [pair.pair_id for pair in ledger.add_lease(lease)]


def test_a_lease_is_acknowledged_when_a_checkpoint_has_all_its_pairs():
    ledger, lease = Ledger(), FakeLease("1", "a", "b")
    assert admitted(ledger, lease) == ["a", "b"]
    ledger.mark_used(["a"])
    ledger.mark_saved(ledger.unacknowledged())
    assert (ledger.acknowledge(), lease.ended) == (0, None)
    ledger.mark_used(["b"])
    assert (ledger.acknowledge(), lease.ended) == (0, None)
    ledger.mark_saved(ledger.unacknowledged())
    assert (ledger.acknowledge(), lease.ended) == (2, "acknowledged")
    assert ledger.unacknowledged() == []


def test_what_a_checkpoint_lists_is_not_used_again_but_acknowledged():
    ledger, known = Ledger(["a", "b"]), FakeLease("1", "a", "b")
    assert admitted(ledger, known) == []
    assert known.ended == "acknowledged"
    mixed = FakeLease("2", "a", "c")
    ledger = Ledger(["a"])
    assert admitted(ledger, mixed) == ["c"]
    ledger.close()
    assert mixed.ended == "handed back"


def test_pairs_whose_lease_ran_out_come_again_and_are_known():
    ledger, first = Ledger(), FakeLease("1", "held", "used", "saved", fails=GONE)
    admitted(ledger, first)
    ledger.mark_used(["saved"])
    ledger.mark_saved(["saved"])
    ledger.mark_used(["used"])
    second = FakeLease("2", "held", "used", "saved")
    assert admitted(ledger, second) == []
    assert ledger.repeated == 3
    ledger.mark_used(["held"])
    ledger.mark_saved(ledger.unacknowledged())
    assert ledger.acknowledge() == 3
    assert second.ended == "acknowledged"


def test_a_service_that_is_away_is_told_another_time():
    ledger, lease = Ledger(), FakeLease("1", "a", fails=AWAY)
    admitted(ledger, lease)
    ledger.mark_used(["a"])
    ledger.mark_saved(["a"])
    later = FakeLease("2", "b")
    admitted(ledger, later)
    ledger.mark_used(["b"])
    ledger.mark_saved(["b"])
    assert ledger.acknowledge() == 0
    assert ledger.unacknowledged() == ["a", "b"]
    lease.fails = None
    assert ledger.acknowledge() == 2


def test_who_resumes_acknowledges_what_the_checkpoint_made_ready():
    ledger = Ledger()
    for lease in (FakeLease("1", "a", "b"), FakeLease("2", "c"), FakeLease("3", "d", "e")):
        admitted(ledger, lease)
    ledger.mark_used(["a", "b", "c", "d"])
    listed = ledger.unacknowledged()
    leases = ledger.complete(listed)
    assert leases == {"1": ["a", "b"], "2": ["c"]}

    def ack(lease: str) -> None:
        if lease == "1":
            raise GONE
        acknowledged.append(lease)

    acknowledged: list[str] = []
    ledger = Ledger(listed)
    ledger.resume(leases, ack)
    assert acknowledged == ["2"]
    assert ledger.unacknowledged() == ["a", "b", "d"]


def test_who_resumes_while_the_service_is_away_knows_the_pairs_later():
    def ack(lease: str) -> None:
        calls.append(lease)
        raise AWAY

    calls: list[str] = []
    ledger = Ledger(["a", "b"])
    ledger.resume({"1": ["a"], "2": ["b"]}, ack)
    assert calls == ["1"]
    assert admitted(ledger, FakeLease("3", "a", "b")) == []


def test_what_no_checkpoint_has_is_handed_back_at_the_end():
    ledger = Ledger()
    ahead, used, saved = FakeLease("1", "a"), FakeLease("2", "b"), FakeLease("3", "c")
    for lease in (ahead, used, saved, FakeLease("4", "d", fails=AWAY)):
        admitted(ledger, lease)
    ledger.mark_used(["c"])
    ledger.mark_saved(["c"])
    ledger.mark_used(["b"])
    ledger.close()
    assert [lease.ended for lease in (ahead, used, saved)] == [
        "handed back",
        "handed back",
        "acknowledged",
    ]
