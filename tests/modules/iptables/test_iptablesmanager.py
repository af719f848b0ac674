"""The rules that lead an edge node's port to cloudcore: written once, kept, and gone afterwards."""

import asyncio
import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.registry import CONFIG_MAPS
from edgehive.cloudcore import tunnelport
from edgehive.cloudcore.iptables import iptablesmanager
from edgehive.cloudcore.iptables.iptables import Iptables, IptablesFailed
from edgehive.cloudcore.iptables.iptablesmanager import IptablesManager
from edgehive.cloudcore.iptables.rules import CHAIN, Redirect, listed, redirects
from edgehive.cloudcore.modules import enabled
from edgehive.kit.config import parse
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client
from edgehive.testing.cluster import Cluster
from edgehive.testing.hosts import DemonstrationFailed, Host


class FakeIptables(Iptables):
    """Table nat in memory; answers as iptables does."""

    def __init__(self) -> None:
        super().__init__("iptables")
        self.chains: dict[str, list[tuple[str, ...]]] = {"OUTPUT": [], "PREROUTING": [("-j", "KUBE-SERVICES")]}
        self.changes = 0
        self.refusal = ""

    async def _execute(self, *words: str) -> tuple[int, str, str]:
        if self.refusal:
            return 4, "", self.refusal
        command, chain, rule = words[0], words[1], words[2:]
        rules = self.chains.get(chain)
        if command == "-N":
            self.chains[chain] = []
        elif rules is None:
            return 1, "", "iptables: No chain/target/match by that name."
        elif command == "-S":
            lines = [("-N", chain), *(("-A", chain, *one) for one in rules)]
            return 0, "".join(f"{' '.join(line)}\n" for line in lines), ""
        elif command in ("-C", "-D") and rule not in rules:
            return 1, "", "iptables: Bad rule (does a matching rule exist in that chain?)."
        elif command == "-D":
            rules.remove(rule)
        elif command == "-A":
            rules.append(rule)
        elif command == "-F":
            rules.clear()
        elif command == "-X":
            del self.chains[chain]
        self.changes += command not in ("-S", "-C")
        return 0, "", ""

    @property
    def led(self) -> list[Redirect | None]:
        return list(listed("".join(f"-A {CHAIN} {' '.join(rule)}\n" for rule in self.chains.get(CHAIN, []))).values())


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Cluster() as cluster:
        yield cluster.client()


@contextlib.asynccontextmanager
async def running(client: Client, *fakes: FakeIptables) -> AsyncIterator[None]:
    programs: dict[int, Iptables] = dict(zip((4, 6), fakes, strict=False))
    task = spawn(IptablesManager(client, 10003, programs).run(lambda: None), name="iptables")
    try:
        yield
    finally:
        await cancel_and_join(task)


async def rounds(count: int = 1) -> None:
    await asyncio.sleep(count * iptablesmanager.ROUND_SECONDS - 1)


@pytest.mark.looptime
async def test_every_cloudcore_s_port_leads_to_its_stream_port(client: Client) -> None:
    four, six = FakeIptables(), FakeIptables()
    for address in ("198.51.100.1", "198.51.100.2", "2001:db8::1"):
        await tunnelport.negotiate(client, address)
    async with running(client, four, six):
        await rounds()
        assert four.led == [Redirect(10351, "198.51.100.1:10003"), Redirect(10352, "198.51.100.2:10003")]
        assert six.led == [Redirect(10353, "[2001:db8::1]:10003")]
        assert [rule[-1] for rule in four.chains["OUTPUT"]] == [CHAIN]
        assert [rule[-1] for rule in four.chains["PREROUTING"]] == ["KUBE-SERVICES", CHAIN]
        changes = four.changes
        await rounds(5)
        assert four.changes == changes
    assert four.chains == six.chains == {"OUTPUT": [], "PREROUTING": [("-j", "KUBE-SERVICES")]}


@pytest.mark.looptime
async def test_what_others_change_is_mended_and_absent_cloudcores_lose_their_rule(client: Client) -> None:
    four = FakeIptables()
    await tunnelport.negotiate(client, "198.51.100.1")
    async with running(client, four, FakeIptables()):
        await rounds()
        four.chains["OUTPUT"].clear()
        four.chains[CHAIN] = [("-j", "ACCEPT")]
        await rounds(2)
        assert four.led == [Redirect(10351, "198.51.100.1:10003")]
        assert four.chains["OUTPUT"]
        await client.delete(CONFIG_MAPS, tunnelport.NAME, tunnelport.NAMESPACE)
        await tunnelport.negotiate(client, "198.51.100.9")
        await rounds(2)
        assert four.led == [Redirect(10351, "198.51.100.9:10003")]


@pytest.mark.looptime
async def test_without_a_record_or_without_ipv6_nothing_is_touched(client: Client) -> None:
    four, six = FakeIptables(), FakeIptables()
    async with running(client, four, six):
        await rounds()
        assert (four.changes, six.changes) == (0, 0)
        await tunnelport.negotiate(client, "198.51.100.1")
        await rounds()
        assert four.led and not six.changes


@pytest.mark.looptime
async def test_a_lack_of_rights_is_said_once_with_the_mend(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    four = FakeIptables()
    four.refusal = (
        "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)"
    )
    await tunnelport.negotiate(client, "198.51.100.1")
    with caplog.at_level(logging.WARNING, "edgehive.iptables"):
        async with running(client, four, FakeIptables()):
            await rounds(3)
            said = [record.message for record in caplog.records]
            assert len(said) == 1
            assert "you must be root" in said[0] and said[0].endswith("needs root or the capability NET_ADMIN")
            four.refusal = ""
            await rounds(2)
            assert four.led


async def test_a_machine_without_iptables_is_told_what_to_do(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    await tunnelport.negotiate(client, "198.51.100.1")
    manager = IptablesManager(client, 10003, {4: Iptables("no-such-iptables"), 6: FakeIptables()})
    with caplog.at_level(logging.WARNING, "edgehive.iptables"):
        await manager._round()
    assert "no-such-iptables is not installed on this machine: install it, or let nodes advertise" in caplog.text


async def test_a_program_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "iptables"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr("edgehive.cloudcore.iptables.iptables.DEADLINE", 0.1)
    with pytest.raises(IptablesFailed, match=r"did not end within 0\.1 s"):
        await Iptables(str(program)).hold([])


def test_names_lead_nowhere() -> None:
    assert redirects({"cloud.example": 10351, "198.51.100.1": 10352}, 1)[4] == [Redirect(10352, "198.51.100.1:1")]


@pytest.mark.parametrize(
    ("modules", "on"),
    [
        ("{}", False),
        ("{cloudStream: {kubeletEndpoint: iptables}}", True),
        ("{cloudStream: {kubeletEndpoint: iptables}, iptablesManager: {mode: external}}", False),
        ("{cloudStream: {kubeletEndpoint: iptables}, iptablesManager: {enable: false}}", False),
        ("{cloudStream: {kubeletEndpoint: iptables, enable: false}}", False),
        ("{iptablesManager: {enable: true}}", False),
    ],
)
def test_it_runs_where_nodes_do_not_advertise_the_cloud(modules: str, on: bool) -> None:
    assert ("iptablesManager" in enabled(parse(f"modules: {modules}", CloudCore))) is on


# Real tables

_ON_THE_HOST = """
import asyncio, socket
from edgehive.cloudcore import tunnelport
from edgehive.cloudcore.iptables.iptablesmanager import IptablesManager
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.testing.cluster import Cluster

async def main():
    listener = socket.create_server(("198.51.100.1", 10003))
    async with Cluster() as cluster:
        client = cluster.client()
        await tunnelport.negotiate(client, "198.51.100.1")
        for _ in range(2):
            manager = IptablesManager(client, 10003)
            await manager._round()
            await manager._round()
        loop = asyncio.get_running_loop()
        caller = await loop.run_in_executor(None, socket.create_connection, ("203.0.113.7", 10351), 5)
        accepted, _ = listener.accept()
        accepted.sendall(b"arrived")
        print(caller.recv(7).decode(), flush=True)
        print((await manager._programs[4]._run("-S")).replace("\\n", ";"), flush=True)
        await manager._remove()
        print((await manager._programs[4]._run("-S")).replace("\\n", ";"), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def host() -> Iterator[Host]:
    if os.geteuid() or not shutil.which("iptables") or not shutil.which("unshare"):
        pytest.skip("needs root, iptables and unshare")
    try:
        made = Host("cloud")
    except (DemonstrationFailed, OSError) as error:
        pytest.skip(f"this machine makes no network namespaces: {error}")
    try:
        made.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "down0")
        made.run("ip", "addr", "add", "198.51.100.1/24", "dev", "up0")
        made.run("ip", "link", "set", "up0", "up")
        made.run("ip", "link", "set", "down0", "up")
        made.run("ip", "route", "add", "default", "dev", "up0")
        made.run("iptables", "-t", "nat", "-S")
    except DemonstrationFailed as error:
        made.end()
        pytest.skip(f"this machine has no table nat: {error}")
    try:
        yield made
    finally:
        made.end()


def test_a_connection_to_the_node_arrives_at_the_stream_port(host: Host) -> None:
    done = subprocess.run(host.command(sys.executable, "-c", _ON_THE_HOST), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    arrived, during, after = done.stdout.splitlines()
    assert arrived == "arrived"
    assert during.count(f"-A {CHAIN} ") == 1
    assert during.count(f"-j {CHAIN}") == 2
    assert CHAIN not in after
