"""The outbox loses nothing, repeats as agreed, and never lets old overtake new."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edgehive.beehive.message import Message
from edgehive.cloudcore.cloudhub.outbox import ATTEMPTS, REPLY_WINDOW, RETRY_AFTER, Outbox, Parcel, Verdict


def parcel(uid: str, version: int, *, path: str = "", deletion: bool = False, released: bool = True) -> Parcel:
    path = path or f"default/pod/{uid}"
    operation = "delete" if deletion else "update"
    message = Message.of(
        source="edgecontroller", group="resource", operation=operation, resource=path, timestamp=0,
        resource_version=str(version),
    )  # fmt: skip
    return Parcel(message, path, uid, version, deletion, released)


def versions(outbox: Outbox) -> list[str]:
    """Acknowledge everything that comes and tell what it was."""
    seen = []
    while (message := outbox.next(0.0)) is not None:
        seen.append(f"{message.route.operation} {message.header.resourceversion}")
        outbox.acknowledge(message.id)
    return seen


def test_versions_are_compared_as_numbers() -> None:
    outbox = Outbox()
    assert outbox.push(parcel("a", 10)) is Verdict.QUEUED
    assert outbox.push(parcel("a", 9)) is Verdict.STALE
    assert outbox.push(parcel("a", 100)) is Verdict.REPLACED
    assert versions(outbox) == ["update 100"]


def test_a_deletion_stays() -> None:
    """[38]"""
    outbox = Outbox()
    outbox.push(parcel("a", 10))
    assert outbox.push(parcel("a", 11, deletion=True)) is Verdict.REPLACED
    assert outbox.push(parcel("a", 12)) is Verdict.STALE
    assert versions(outbox) == ["delete 11"]


def test_the_old_life_ends_before_the_new_one_begins() -> None:
    outbox = Outbox()
    path = "default/configmap/c"
    outbox.push(parcel("new", 20, path=path))
    outbox.push(parcel("old", 10, path=path, deletion=True))
    assert versions(outbox) == ["delete 10", "update 20"]


def test_an_answer_waits_for_a_deletion_of_its_name() -> None:
    outbox = Outbox()
    path = "default/configmap/c"
    outbox.push(parcel("old", 10, path=path, deletion=True))
    outbox.reply(parcel("new", 20, path=path))
    assert versions(outbox) == ["delete 10", "update 20"]


def test_nothing_goes_out_before_its_record_stands() -> None:
    outbox = Outbox()
    outbox.push(parcel("a", 1, released=False))
    outbox.push(parcel("b", 2))
    assert outbox.next(0.0).header.resourceversion == "2"  # type: ignore[union-attr]
    outbox.release("a")
    assert outbox.next(0.0) is None
    outbox.acknowledge(outbox.next(RETRY_AFTER).id)  # type: ignore[union-attr]
    assert outbox.next(RETRY_AFTER).header.resourceversion == "1"  # type: ignore[union-attr]


def test_no_pod_passes_what_it_may_read() -> None:
    """It would begin with the old one if the link fell in between."""
    for kind in ("configmap", "secret"):
        outbox = Outbox()
        outbox.push(parcel("read", 1, path=f"default/{kind}/settings", released=False))
        outbox.push(parcel("pod", 2))
        outbox.push(parcel("old", 3, deletion=True))
        outbox.push(parcel("node", 4, path="null/node/n1"))
        assert versions(outbox) == ["delete 3", "update 4"]
        outbox.release("read")
        assert versions(outbox) == ["update 1", "update 2"]


def test_answers_are_each_sent_in_a_window() -> None:
    """[21]"""
    outbox = Outbox()
    for _ in range(REPLY_WINDOW + 3):
        outbox.reply(parcel("a", 5))
    sent = []
    while (message := outbox.next(0.0)) is not None:
        sent.append(message)
    assert len(sent) == REPLY_WINDOW
    assert outbox.wake_at == RETRY_AFTER
    outbox.acknowledge(sent[0].id)
    assert outbox.next(0.0) is not None
    # A node that never acknowledges gets the rest after a while.
    assert outbox.next(RETRY_AFTER) is not None


def test_repetition_gives_way_to_something_newer() -> None:
    outbox = Outbox()
    outbox.push(parcel("a", 1))
    first = outbox.next(0.0)
    assert outbox.next(RETRY_AFTER - 0.1) is None
    assert outbox.next(RETRY_AFTER) is first
    outbox.push(parcel("a", 2))
    assert outbox.next(2 * RETRY_AFTER).header.resourceversion == "2"  # type: ignore[union-attr]


def test_a_late_acknowledgement_spares_the_repetition() -> None:
    outbox = Outbox()
    outbox.push(parcel("a", 1))
    first = outbox.next(0.0)
    assert first is not None
    for turn in range(1, ATTEMPTS):
        assert outbox.next(turn * RETRY_AFTER) is first
    outbox.push(parcel("b", 2))
    other = outbox.next(ATTEMPTS * RETRY_AFTER)
    assert other is not first
    assert outbox.acknowledge(first.id) is not None
    assert len(outbox) == 1


def test_a_full_outbox_says_so() -> None:
    outbox = Outbox(pushes=2)
    assert [outbox.push(parcel(uid, 1)) for uid in "abc"] == [Verdict.QUEUED, Verdict.QUEUED, Verdict.FULL]
    assert outbox.overflowed


def test_an_outbox_remembers_how_full_it_was() -> None:
    outbox = Outbox(notices=2)
    for number in range(4):
        outbox.notice(parcel("n", number).message)
    outbox.push(parcel("a", 1))
    while outbox.next(0.0) is not None:
        pass
    assert outbox.most == 3


def test_a_successor_takes_over_everything() -> None:
    old = Outbox()
    old.push(parcel("a", 1))
    old.push(parcel("b", 2))
    old.reply(parcel("c", 3))
    old.notice(parcel("n", 4).message)
    assert old.next(0.0) is not None
    assert old.next(0.0) is not None
    assert old.next(0.0) is not None
    new = Outbox()
    new.adopt(old)
    assert sorted(versions(new)) == ["update 1", "update 2", "update 3"]


events = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from("abc"), st.integers(1, 50)),
        st.tuples(st.just("delete"), st.sampled_from("abc"), st.integers(1, 50)),
        st.tuples(st.just("next"), st.just(""), st.integers(0, 12)),
        st.tuples(st.just("ack"), st.just(""), st.integers(0, 3)),
        st.tuples(st.just("adopt"), st.just(""), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(events)
def test_whatever_happens_the_last_word_arrives_last(script: list[tuple[str, str, int]]) -> None:
    """After any story, draining leaves each uid at the newest version pushed, or deleted when it was."""
    outbox, now = Outbox(), 0.0
    newest: dict[str, int] = {}
    deleted: set[str] = set()
    stored: dict[str, int | None] = {}
    unacked: list[Message] = []
    recorded: dict[str, int] = {}  # what dispatch knows from the delivery records: it pushes nothing older

    def acknowledge(message: Message) -> None:
        uid = message.route.resource.rsplit("/", 1)[1]
        recorded[uid] = max(recorded.get(uid, 0), int(message.header.resourceversion or 0))
        outbox.acknowledge(message.id)

    def store(message: Message) -> None:
        uid = message.route.resource.rsplit("/", 1)[1]
        stored[uid] = None if message.route.operation == "delete" else int(message.header.resourceversion)

    for action, uid, number in script:
        if action == "push" and uid not in deleted and number > recorded.get(uid, 0):
            outbox.push(parcel(uid, number))
            newest[uid] = max(newest.get(uid, 0), number)
        elif action == "delete" and uid not in deleted:
            outbox.push(parcel(uid, number, deletion=True))
            deleted.add(uid)
        elif action == "next":
            now += number
            if (message := outbox.next(now)) is not None:
                store(message)
                unacked.append(message)
        elif action == "ack" and unacked:
            acknowledge(unacked[number % len(unacked)])
        elif action == "adopt":
            successor = Outbox()
            successor.adopt(outbox)
            outbox = successor
    for _ in range(200):
        now += RETRY_AFTER
        while (message := outbox.next(now)) is not None:
            store(message)
            outbox.acknowledge(message.id)
    assert len(outbox) == 0
    for uid in deleted:
        assert stored[uid] is None
    for uid in set(newest) - deleted:
        # An older version that is acknowledged late never hides that the newest was sent.
        assert stored[uid] is not None
        assert stored[uid] >= newest[uid] or stored[uid] == newest[uid]  # type: ignore[operator]


def test_what_makes_room_is_counted_and_is_never_an_object() -> None:
    outbox = Outbox(pushes=2, replies=2, notices=2)
    for number in range(5):
        outbox.notice(parcel("n", number).message)
        outbox.reply(parcel("r", number))
    outbox.push(parcel("a", 1))
    assert outbox.dropped == 6
    assert versions(outbox) == ["update 3", "update 4", "update 3", "update 4", "update 1"]
