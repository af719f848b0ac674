"""The scenarios a fleet plays, in their order, and what each took: seconds, units, the server's processor time.

With a meter every scenario ends with a pause in which the server finishes what it put off; that is its cost too.
What the server uses at rest is measured once and taken off, and so are the lease renewals that go on meanwhile, each
at what one costs in the scenario of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from edgehive.testing.fleet.fleet import LEASE_SECONDS, Fleet
from edgehive.testing.fleet.meter import Meter
from edgehive.testing.fleet.node import HollowNode
from edgehive.testing.fleet.workload import Advance, Workload

#: In the order they are played; each needs those before it that are marked so in `needed`.
SCENARIOS = ("connect", "register", "idle", "leases", "pods", "status", "configmaps", "storm")
#: Those that need a client of the API server.
WITH_API = frozenset({"pods", "status", "configmaps"})
KEEPALIVES, RENEWALS, PATCHES, WRITES = 50, 5, 5, 5
#: How long a scenario waits for any of what it still misses.
PATIENCE = 60.0
#: A lease is good for 40 s: longer than this none may be left alone.
MAX_WITHOUT_LEASES = 25.0
#: How long it is waited for that nobody writes to the nodes.
MAX_TO_CALM = 300.0
CONFIG_MAP = "fleet-settings"
LEASE_RENEWAL = "lease renewal"


@dataclass(slots=True)
class Phase:
    """One measured stretch. `seconds` are the work's alone, `window` is with the pause after it."""

    name: str
    unit: str
    units: int = 0
    seconds: float = 0.0
    window: float = 0.0
    cpu: float | None = None
    #: Which idle rate is to be taken off: of a fresh server, or with the fleet connected (with or without leases).
    baseline: str = "steady"


@dataclass(slots=True)
class Outcome:
    """All that was measured."""

    nodes: int
    phases: list[Phase] = field(default_factory=list)
    #: Cores used while idle: "fresh", "idle" (keepalives only), "steady" (with lease renewals).
    idle: dict[str, float] = field(default_factory=dict)
    #: Bytes of the server: "fresh", "connected", "registered", "end".
    memory: dict[str, int] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    def cpu_per_unit(self, phase: Phase) -> float | None:
        """Seconds of the server per unit, net of what goes on beside it; None when not measured."""
        if phase.cpu is None or not phase.units:
            return None
        return max(0.0, phase.cpu - self._beside(phase.baseline) * phase.window) / phase.units

    def _beside(self, baseline: str) -> float:
        """Cores used by what is not measured."""
        at_rest = self.idle.get("idle", self.idle.get("fresh", 0.0))
        if baseline == "fresh":
            return self.idle.get("fresh", 0.0)
        if baseline == "idle":
            return at_rest
        renewal = next((self.cpu_per_unit(phase) for phase in self.phases if phase.name == LEASE_RENEWAL), None)
        if renewal is None:
            return self.idle.get("steady", at_rest)
        return at_rest + renewal * self.nodes / LEASE_SECONDS


class Progress(Protocol):
    """Shows how far a scenario is."""

    def begin(self, what: str, total: int) -> Advance: ...


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: int) -> Advance:  # noqa: ARG002 - the protocol's
        return lambda: None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be played, and how large."""

    scenarios: tuple[str, ...]
    pods: int = 1
    churn: int = 0
    seconds: float = 20.0
    settle: float = 6.0
    storm_pause: float = 0.0


class Play:
    """Plays the chosen scenarios on an entered fleet."""

    def __init__(
        self, fleet: Fleet, workload: Workload | None, meter: Meter | None, choice: Choice, progress: Progress
    ) -> None:
        self.outcome = Outcome(len(fleet.nodes))
        self._fleet = fleet
        self._journal = fleet.journal
        self._workload = workload
        self._meter = meter
        self._choice = choice
        self._progress = progress

    async def run(self) -> Outcome:
        steps = {
            "connect": self._connect,
            "register": self._register,
            "idle": self._idle,
            "leases": self._leases,
            "pods": self._pods,
            "status": self._status,
            "configmaps": self._configmaps,
            "storm": self._storm,
        }
        await self._rest("fresh", self._choice.seconds)
        for name in SCENARIOS:
            if name in self._choice.scenarios:
                await steps[name]()
        self._note_memory("end")
        return self.outcome

    # The scenarios

    async def _connect(self) -> None:
        nodes = len(self._fleet.nodes)
        async with self._phase("certificate", "certificate", baseline="fresh") as phase:
            await self._fleet.certify(self._progress.begin("certificates", nodes))
            phase.units = nodes
        async with self._phase("connect", "connection", baseline="fresh") as phase:
            await self._fleet.connect(self._progress.begin("connections", nodes))
            phase.units = nodes
        self._note_memory("connected")

    async def _register(self) -> None:
        nodes = len(self._fleet.nodes)
        async with self._phase("register", "node", baseline="idle") as phase:
            await self._fleet.register(self._progress.begin("registrations", nodes))
            phase.units = nodes
        self._fleet.leases.pause(False)
        self._note_memory("registered")

    async def _idle(self) -> None:
        if self._workload is not None and self._meter is not None:
            # A control plane goes on writing to new nodes for minutes; that is not what a fleet at rest costs.
            await self._api.nodes_left_alone(self._choice.settle, MAX_TO_CALM)
        await self._rest("steady", self._choice.seconds)
        # Now with keepalives alone: what one lease renewal costs is the difference.
        self._fleet.leases.pause(True)
        await self._rest("idle", min(self._choice.seconds, MAX_WITHOUT_LEASES))
        self._fleet.leases.pause(False)
        await asyncio.sleep(0)
        await self._keepalives()

    async def _keepalives(self) -> None:
        """Far more than nodes send, so that their cost stands out."""
        advance = self._progress.begin("keepalives", len(self._fleet.nodes) * KEEPALIVES)
        async with self._phase("keepalive", "keepalive") as phase:

            async def beat(node: HollowNode) -> None:
                for _ in range(KEEPALIVES):
                    node.keepalive()
                    advance()
                    await asyncio.sleep(0)

            await self._fleet.each(beat)
            phase.units = len(self._fleet.nodes) * KEEPALIVES

    async def _leases(self) -> None:
        advance = self._progress.begin("lease renewals", len(self._fleet.nodes) * RENEWALS)
        self._fleet.leases.pause(True)
        async with self._phase(LEASE_RENEWAL, "renewal", baseline="idle") as phase:

            async def renew(node: HollowNode) -> None:
                for _ in range(RENEWALS):
                    await node.renewed()
                    advance()

            await self._fleet.each(renew)
            phase.units = len(self._fleet.nodes) * RENEWALS
        self._fleet.leases.pause(False)

    async def _pods(self) -> None:
        """Delivered and acknowledged; then reported; then the whole cycle; then, if asked for, churn."""
        names = self._names("d")
        self._journal.answering = False
        async with self._phase("pod delivered and acknowledged", "pod") as phase:
            await self._delivered(names)
            phase.units = len(names)
        workload, delivered = self._api, self._journal.delivered
        last = max(delivered[name] for name, _ in names)
        first = min(workload.created[name] for name, _ in names)
        self.outcome.facts["pods delivered per second"] = len(names) / max(1e-6, last - first)
        async with self._phase("pod reported Running", "status patch") as phase:
            await self._reported(len(names))
            phase.units = len(names)
        self._journal.answering = True
        names = self._names("r")
        async with self._phase("pod, create to Running", "pod") as phase:
            await self._created_and_running(names)
            phase.units = len(names)
        for _ in range(self._choice.churn):
            await self._churn(names)

    async def _delivered(self, names: list[tuple[str, str]]) -> None:
        await self._api.create_pods(names, self._progress.begin("pods delivered", len(names)))
        await self._until(lambda: [name for name, _ in names if name not in self._journal.delivered], "deliveries")
        for name, _ in names:
            self._journal.took("pod created to delivered", self._journal.delivered[name] - self._api.created[name])

    async def _reported(self, count: int) -> None:
        advance = self._progress.begin("pods reported", count)
        before = self._journal.number("pod reported Running")

        async def report(node: HollowNode) -> None:
            for path in list(node.pods):
                node.run_pod(path)
                advance()

        await self._fleet.each(report)
        await self._until_count(lambda: count - (self._journal.number("pod reported Running") - before), "answers")

    async def _created_and_running(self, names: list[tuple[str, str]], config_map: str = "") -> None:
        advance = self._progress.begin("pods Running", len(names))
        await self._api.create_pods(names, advance, config_map)
        await self._until(lambda: [name for name, _ in names if name not in self._api.running], "Running pods")
        for name, _ in names:
            created = self._api.created[name]
            self._journal.took("pod created to delivered", self._journal.delivered[name] - created)
            self._journal.took("pod created to seen Running", self._api.running[name] - created)

    async def _churn(self, names: list[tuple[str, str]]) -> None:
        async with self._phase("pod deleted and created anew", "pod") as phase:
            began = perf_counter()
            plain = [name for name, _ in names]
            self._api.forget(plain)
            await self._api.delete_pods(plain, self._progress.begin("pods deleted", len(plain)))
            await self._until(lambda: [name for name in plain if name not in self._api.gone], "deletions")
            for name in plain:
                self._journal.took("pod deletion asked to gone (with its queue)", self._api.gone[name] - began)
            self._api.forget(plain)
            await self._created_and_running(names)
            phase.units = len(plain)

    async def _status(self) -> None:
        """One patch after another on every node, each after the answer to the last."""
        if not any(node.pods for node in self._fleet.nodes):
            await self._created_and_running(self._names("r"))
        nodes = [node for node in self._fleet.nodes if node.pods]
        advance = self._progress.begin("status patches", len(nodes) * PATCHES)
        async with self._phase("status patch, closed loop", "patch") as phase:

            async def patch(node: HollowNode) -> None:
                if not node.pods:
                    return
                path = next(iter(node.pods))
                for number in range(PATCHES):
                    await node.report_pod(path, number + 1)
                    advance()

            await self._fleet.each(patch)
            phase.units = len(nodes) * PATCHES

    async def _configmaps(self) -> None:
        """One ConfigMap that a pod on every node mounts, written again and again."""
        nodes = len(self._fleet.nodes)
        await self._api.write_config_map(CONFIG_MAP, 0)
        await self._created_and_running([(f"{node.name}-c", node.name) for node in self._fleet.nodes], CONFIG_MAP)
        await asyncio.sleep(self._choice.settle if self._meter else 0)
        what, path = "ConfigMap written to delivered", f"default/configmap/{CONFIG_MAP}"
        advance = self._progress.begin("ConfigMap deliveries", nodes * WRITES)
        async with self._phase("ConfigMap fan-out, acknowledged", "delivery") as phase:
            for revision in range(1, WRITES + 1):
                target = self._journal.number(what) + nodes
                self._journal.writing_config()
                began = perf_counter()
                version = await self._api.write_config_map(CONFIG_MAP, revision)
                self._journal.expect_config(path, version, began)
                await self._until_number(what, target)
                for _ in range(nodes):
                    advance()
            phase.units = nodes * WRITES

    async def _storm(self) -> None:
        nodes = len(self._fleet.nodes)
        self._fleet.leases.pause(True)
        async with self._phase("reconnect, all at once", "connection", baseline="idle") as phase:
            pause = self._choice.storm_pause
            await self._fleet.storm(pause, self._progress.begin("reconnections", nodes))
            phase.units = nodes
        self._fleet.leases.pause(False)
        self.outcome.facts["connected after the storm"] = self._fleet.connected
        phase.seconds -= pause

    # Inside

    @property
    def _api(self) -> Workload:
        assert self._workload is not None
        return self._workload

    def _names(self, kind: str) -> list[tuple[str, str]]:
        """Pods of a kind with their nodes, a round of all nodes after another."""
        rounds = range(self._choice.pods)
        return [(f"{node.name}-{kind}{number}", node.name) for number in rounds for node in self._fleet.nodes]

    async def _until(self, missing: Callable[[], list[str]], what: str) -> None:
        await self._until_count(lambda: len(missing()), what)

    async def _until_count(self, missing: Callable[[], int], what: str) -> None:
        await self._journal.until(missing, PATIENCE, what)

    async def _until_number(self, what: str, target: int) -> None:
        await self._until_count(lambda: target - self._journal.number(what), "deliveries")

    @asynccontextmanager
    async def _phase(self, name: str, unit: str, *, baseline: str = "steady") -> AsyncIterator[Phase]:
        phase = Phase(name, unit, baseline=baseline)
        before = self._meter.cpu() if self._meter else 0.0
        began = perf_counter()
        yield phase
        phase.seconds = perf_counter() - began
        if self._meter:
            await asyncio.sleep(self._choice.settle)
            phase.cpu = self._meter.cpu() - before
        phase.window = perf_counter() - began
        self.outcome.phases.append(phase)

    async def _rest(self, name: str, seconds: float) -> None:
        """Measure what the server uses by itself."""
        if self._meter is None:
            if name != "fresh":
                await asyncio.sleep(seconds)
            return
        advance = self._progress.begin(f"resting ({name})", 1)
        before, began = self._meter.cpu(), perf_counter()
        await asyncio.sleep(seconds)
        self.outcome.idle[name] = (self._meter.cpu() - before) / (perf_counter() - began)
        advance()
        if name == "fresh":
            # Now: what was needed for the start alone has been given back.
            self._note_memory("fresh")

    def _note_memory(self, when: str) -> None:
        if self._meter is not None:
            self.outcome.memory[when] = self._meter.resident()


def needed(chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The chosen scenarios and those they rest on, in order."""
    wanted = set(chosen) | {"connect"}
    if wanted - {"connect"}:
        wanted.add("register")
    return tuple(name for name in SCENARIOS if name in wanted)
