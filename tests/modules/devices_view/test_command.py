"""The command as it is typed: in a pipe, in a terminal, and by who has no cluster."""

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from devices_view_rig import MODEL, Site

from edgehive.api.registry import DEVICE_MODELS, DEVICES
from edgehive.devices_view import source
from edgehive.devices_view.app import main
from edgehive.kube.kubeconfig import KubeconfigError
from edgehive.testing.cluster import Cluster

COMMAND = (sys.executable, "-m", "edgehive", "devices")
CONFIG = """
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
contexts: [{{name: c, context: {{cluster: c}}}}]
current-context: c
"""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Site]:
    """A cluster behind a socket, with a device."""
    async with Cluster() as cluster, cluster.serve() as url:
        (tmp_path / "config").write_text(CONFIG.format(url=url))
        site = Site(cluster.client())
        await site.client.create(DEVICE_MODELS, MODEL, "default")
        await site.device()
        await site.report(at=1, temperature="20.5")
        yield site


async def run(config: Path, *words: str) -> tuple[int | None, str, str]:
    pipe = asyncio.subprocess.PIPE
    environment = os.environ | {"KUBECONFIG": str(config)}
    process = await asyncio.create_subprocess_exec(*COMMAND, *words, stdout=pipe, stderr=pipe, env=environment)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_in_a_pipe_it_is_a_table_and_set_writes(served: Site, tmp_path: Path) -> None:
    code, output, errors = await run(tmp_path / "config")
    assert (code, errors) == (0, "") and "20.5" in output and "\x1b" not in output
    code, output, _ = await run(tmp_path / "config", "set", "hall", "target", "25")
    assert (code, output) == (0, "default/hall: target shall be 25 C\n")
    properties = (await served.client.get(DEVICES, "hall", "default")).to_dict()["spec"]["properties"]
    assert properties[1]["desired"] == {"value": "25"}
    code, _, errors = await run(tmp_path / "config", "set", "hall", "target", "-5")
    assert code == 1
    assert errors == "edgehive devices: property 'target': the value '-5' is below the minimum 5 C\n"


async def test_ctrl_c_ends_the_live_table_with_0_and_gives_the_cursor_back(served: Site, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"KUBECONFIG": str(tmp_path / "config"), "TERM": "xterm", "COLUMNS": "150"}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = bytearray()
    shown = asyncio.Event()

    def read() -> None:
        try:
            seen.extend(os.read(ours, 65536))
        except OSError:  # the last process that wrote has ended
            asyncio.get_running_loop().remove_reader(ours)
        if b"20.5" in seen:
            shown.set()

    asyncio.get_running_loop().add_reader(ours, read)
    try:
        async with asyncio.timeout(60):
            await shown.wait()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
        read()
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
    assert b"Traceback" not in seen and seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")


def no_cluster(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(source, "SITE_KUBECONFIG", folder / "kubeconfig")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(folder))


def test_without_a_kubeconfig_the_mend_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_cluster(monkeypatch, tmp_path)
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("edgehive devices: no Kubernetes API is configured") and "edgesite up" in said


def test_the_site_on_this_machine_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_cluster(monkeypatch, tmp_path)
    (tmp_path / "kubeconfig").write_text(CONFIG.format(url="http://192.0.2.1:8080"))
    assert source.access("").server == "http://192.0.2.1:8080"
    with pytest.raises(KubeconfigError, match="cannot read"):
        source.access(str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plot", "temperature"], "--plot needs the NAME of a device"),
        (["hall", "--plot", "t", "-o", "json"], "--plot draws; leave out -o json"),
        (["-A", "-n", "x"], "give -n or -A, not both"),
        (["hall", "--since", "5"], "'5' is to be a number and a unit, such as 30s, 5m or 2h"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert said in capsys.readouterr().err
