"""What crosses the links of one process, counted; the same on both sides."""

from prometheus_client import CollectorRegistry, Counter


class LinkMetrics:
    """Made once per process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        messages = Counter("edgehive_link_messages", "Messages over hub links.", ["direction"], registry=registry)
        size = Counter("edgehive_link_bytes", "Bytes of messages over hub links.", ["direction"], registry=registry)
        self._sent = (messages.labels("sent"), size.labels("sent"))
        self._received = (messages.labels("received"), size.labels("received"))
        self.refused = Counter("edgehive_link_refused_frames", "Frames that are no message.", registry=registry)
        self.slowed = Counter(
            "edgehive_link_slowed_messages",
            "Messages read late because their sender sends too many.",
            registry=registry,
        )

    def sent(self, size: int) -> None:
        self._sent[0].inc()
        self._sent[1].inc(size)

    def received(self, size: int) -> None:
        self._received[0].inc()
        self._received[1].inc(size)


UNREGISTERED = LinkMetrics(None)
