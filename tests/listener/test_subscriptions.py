"""What the provider's answers to subscriptions mean."""

from __future__ import annotations

from mdp.listener.subscriptions import GRACE_NS, SubscriptionBook

REFUSAL = "not authorized"


def acknowledge(book: SubscriptionBook, *pairs: str) -> None:
    for pair in pairs:
        book.on_success(f"subscribed to: {pair}")


def asked_book(*wanted: str) -> SubscriptionBook:
    """A book whose pairs were just requested, at time 0."""
    book = SubscriptionBook(wanted)
    book.asked(0, fresh=True)
    return book


def test_acknowledged_pairs_are_granted() -> None:
    """Each by its name; nothing to report."""
    book = asked_book("T.*", "Q.*")
    acknowledge(book, "T.*", "Q.*")
    assert book.granted == {"T.*", "Q.*"}
    assert book.settle(GRACE_NS) == ([], [])


def test_refusal_is_put_down_to_the_pair_without_acknowledgement() -> None:
    """Only once the grace is over: acknowledgements may still be on their way."""
    book = asked_book("T.*", "Q.*", "LULD.*")
    acknowledge(book, "T.*")
    assert book.on_refusal(REFUSAL, 1) == []
    assert book.settle(GRACE_NS - 1) == ([], [])
    acknowledge(book, "Q.*")
    assert book.settle(GRACE_NS) == (["LULD.*"], [])
    assert book.served == {"T.*", "Q.*"}


def test_refusal_that_names_its_pair_is_believed_at_once() -> None:
    """Should the provider ever say which."""
    book = asked_book("T.*", "LULD.*")
    assert book.on_refusal("not authorized: LULD.*", 1) == ["LULD.*"]
    assert book.degraded == {"LULD.*"}


def test_refused_pair_is_reported_once_over_all_connections() -> None:
    """It is asked for on every connection, refused again, and no news."""
    book = asked_book("T.*", "LULD.*")
    for connection in range(3):
        book.asked(0, fresh=True)
        assert book.degraded == set()
        acknowledge(book, "T.*")
        book.on_refusal(REFUSAL, 1)
        assert book.settle(GRACE_NS) == (["LULD.*"] if connection == 0 else [], [])
        assert book.degraded == {"LULD.*"}


def test_refusal_after_the_grace_is_settled_too() -> None:
    """An entitlement may end in the middle of the day."""
    book = asked_book("T.*", "Q.*")
    acknowledge(book, "T.*")
    book.settle(GRACE_NS)
    book.on_refusal(REFUSAL, 10 * GRACE_NS)
    book.settle(11 * GRACE_NS)
    assert book.degraded == {"Q.*"}
    assert book.unanswered == set()


def test_unknown_topic_is_reported_as_unanswered() -> None:
    """The provider says nothing at all to it."""
    book = asked_book("T.*", "ZZ.*")
    acknowledge(book, "T.*")
    assert book.settle(GRACE_NS) == ([], ["ZZ.*"])
    assert book.unanswered == {"ZZ.*"}
    assert book.served == {"T.*"}


def test_late_acknowledgement_ends_the_degradation() -> None:
    """The provider's word counts, whenever it comes."""
    book = asked_book("T.*", "Q.*")
    acknowledge(book, "T.*")
    book.on_refusal(REFUSAL, 1)
    book.settle(GRACE_NS)
    acknowledge(book, "Q.*")
    assert book.degraded == set()
    assert book.granted == {"T.*", "Q.*"}


def test_server_that_acknowledges_nothing_leaves_all_served() -> None:
    """Silence of such a server says nothing about single pairs."""
    book = asked_book("T.*", "Q.*")
    assert book.settle(GRACE_NS) == ([], [])
    assert book.served == {"T.*", "Q.*"}


def test_change_returns_the_difference_and_forgets_what_is_gone() -> None:
    """Asked for again later, a refusal is news again."""
    book = asked_book("T.*", "LULD.*")
    acknowledge(book, "T.*")
    book.on_refusal(REFUSAL, 1)
    book.settle(GRACE_NS)
    assert book.change(["T.*", "A.*"]) == (["A.*"], ["LULD.*"])
    assert book.degraded == set()
    book.change(["T.*", "A.*", "LULD.*"])
    book.asked(0, fresh=False)
    acknowledge(book, "A.*")
    book.on_refusal(REFUSAL, 1)
    assert book.settle(GRACE_NS) == (["LULD.*"], [])


def test_unsubscribed_and_foreign_pairs_are_not_granted() -> None:
    """An old connection's acknowledgement for what is not wanted any more changes nothing."""
    book = asked_book("T.*")
    acknowledge(book, "T.*", "Q.*")
    assert book.granted == {"T.*"}
    book.on_success("unsubscribed to: T.*")
    book.on_success("something else")
    assert book.granted == set()
