"""Bad input on the command lines: one clear sentence on stderr, no traceback, an exit code that tells."""

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

Json = dict[str, Any]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgehive", *arguments]


def refused(*arguments: str) -> str:
    """The one line the command says when it does not start."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith(f"{arguments[0]}: ")]
    assert len(said) == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return said[0]


@contextmanager
def lines_of(*arguments: str) -> Iterator[Iterator[str]]:
    """What a command that does start says, line by line, for at most twenty seconds."""
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            yield _lines(process)
        finally:
            process.kill()


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    assert process.stderr is not None
    descriptor, rest, deadline = process.stderr.fileno(), b"", time.monotonic() + 20
    while time.monotonic() < deadline:
        if not select.select([descriptor], [], [], deadline - time.monotonic())[0]:
            return
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode() for line in whole)


def write(folder: Path, settings: Json) -> str:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    return str(file)


def edge_settings(folder: Path, **more: Json) -> Json:
    """edgecore without containers, ports and a cloud, `more` replacing whole modules."""
    modules: Json = {
        "edged": {"enable": False, "hostnameOverride": "n1"},
        "edgeHub": {"enable": False},
        "deviceTwin": {"dmiSockPath": str(folder)},
        "eventBus": {"enable": False},
    }
    return {
        "database": {"dataSource": str(folder / "edgecore.db")},
        "commonConfig": {"monitorServer": {"bindAddress": ""}},
        "modules": modules | more,
    }


def cloud_settings(folder: Path, **more: Any) -> Json:
    files = {key: str(folder / key) for key in ("tlsCAFile", "tlsCAKeyFile", "tlsCertFile", "tlsPrivateKeyFile")}
    return {"kubeAPIConfig": {"master": "http://127.0.0.1:1"}, "modules": {"cloudHub": files}} | more


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("component", ["cloudcore", "edgecore"])
def test_broken_yaml_is_placed(component: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("modules: [unclosed\n")
    said = refused(component, "--config", str(file))
    assert f"{file} is not valid YAML" in said
    assert "line 2" in said


@pytest.mark.parametrize("component", ["cloudcore", "edgecore"])
def test_a_missing_file_is_named_with_the_mend(component: str, tmp_path: Path) -> None:
    said = refused(component, "--config", str(tmp_path / "absent.yaml"))
    assert f"cannot read {tmp_path / 'absent.yaml'}" in said
    assert "--config" in said


@pytest.mark.parametrize("component", ["cloudcore", "edgecore"])
def test_a_wrong_type_is_named_with_its_place(component: str, tmp_path: Path) -> None:
    said = refused(component, "--config", write(tmp_path, {"modules": {"edgeHub": 7, "cloudHub": 7}}))
    assert "modules" in said
    assert "Hub" in said


@pytest.mark.parametrize("component", ["cloudcore", "edgecore"])
@pytest.mark.parametrize("content", ["", "just a text", "- a\n- list\n", "\x00", "a: &a [*a]\n"])
def test_what_is_no_configuration_never_shows_a_traceback(component: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content + "\n")
    if content:
        assert str(file) in refused(component, "--config", str(file))


def test_broken_yaml_of_a_site_is_placed(tmp_path: Path) -> None:
    (tmp_path / "edgesite.yaml").write_text("port: [1\n")
    for verb in ("up", "status", "down"):
        assert f"{tmp_path / 'edgesite.yaml'} is not valid YAML" in refused("edgesite", verb, "--data", str(tmp_path))


def test_unknown_keys_warn_with_the_nearest_known_one(tmp_path: Path) -> None:
    settings = edge_settings(tmp_path) | {"databse": {}}
    settings["modules"]["edgeHubb"] = {"enable": True}
    with lines_of("edgecore", "--config", write(tmp_path, settings)) as lines:
        warnings: list[str] = []
        for line in lines:
            warnings += [line] if "WARNING" in line else []
            if "starts as node n1" in line:
                break
        else:
            pytest.fail("edgecore did not start")
    assert len(warnings) == 2
    assert any("databse" in line and "database" in line for line in warnings)
    assert any("modules.edgeHubb" in line and "edgeHub" in line for line in warnings)


def test_unknown_keys_of_cloudcore_warn_before_anything_else(tmp_path: Path) -> None:
    file = write(tmp_path, cloud_settings(tmp_path, commonConfg={}))
    with lines_of("cloudcore", "--config", file) as lines:
        first = next(lines)
    assert "WARNING" in first
    assert "commonConfg" in first
    assert "commonConfig" in first


def test_edgecores_port_in_use_is_named(tmp_path: Path, taken: int) -> None:
    settings = edge_settings(tmp_path)
    settings["commonConfig"]["monitorServer"]["bindAddress"] = f"127.0.0.1:{taken}"
    assert f"port {taken} on 127.0.0.1 is in use" in refused("edgecore", "--config", write(tmp_path, settings))


def test_the_kubelet_port_in_use_is_named(tmp_path: Path, taken: int) -> None:
    kubelet = {
        "readOnlyPort": taken,
        "containerRuntimeEndpoint": f"unix://{tmp_path}/no.sock",
        "imageServiceEndpoint": f"unix://{tmp_path}/no.sock",
        "staticPodPath": str(tmp_path / "manifests"),
    }
    edged = {"hostnameOverride": "n1", "rootDirectory": str(tmp_path / "k"), "tailoredKubeletConfig": kubelet}
    assert f"port {taken} " in refused("edgecore", "--config", write(tmp_path, edge_settings(tmp_path, edged=edged)))


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "a.b.c.d.e", "..."])
def test_a_token_of_the_wrong_form_is_refused_with_where_to_get_one(token: str, tmp_path: Path) -> None:
    hub = {
        "token": token,
        "httpServer": "https://127.0.0.1:1",
        "websocket": {"enable": True, "server": "127.0.0.1:1"},
        "tlsCaFile": str(tmp_path / "ca.crt"),
        "tlsCertFile": str(tmp_path / "server.crt"),
        "tlsPrivateKeyFile": str(tmp_path / "server.key"),
    }
    said = refused("edgecore", "--config", write(tmp_path, edge_settings(tmp_path, edgeHub=hub)))
    assert "token" in said
    assert "tokensecret" in said


def test_a_node_without_containerd_says_so_once_and_stays(tmp_path: Path) -> None:
    """The runtime may come later: the agent tells what it lacks and goes on."""
    endpoint = f"unix://{tmp_path}/no.sock"
    kubelet = {
        "readOnlyPort": 0,
        "containerRuntimeEndpoint": endpoint,
        "imageServiceEndpoint": endpoint,
        "staticPodPath": str(tmp_path / "manifests"),
    }
    edged = {"hostnameOverride": "n1", "rootDirectory": str(tmp_path / "k"), "tailoredKubeletConfig": kubelet}
    said: list[str] = []
    with lines_of("edgecore", "--config", write(tmp_path, edge_settings(tmp_path, edged=edged))) as lines:
        for line in lines:
            said.append(line)
            if "module edged is ready" in line:
                break
        else:
            pytest.fail("\n".join(said))
    warnings = [line for line in said if "WARNING" in line]
    assert len(warnings) == 1
    assert f"no container runtime listens on {tmp_path}/no.sock: start containerd" in warnings[0]
    assert "Traceback" not in "\n".join(said)


@pytest.mark.parametrize("component", ["cloudcore", "edgecore", "edgesite"])
def test_an_unknown_option_is_refused_with_the_usage(component: str) -> None:
    done = subprocess.run(command(component, "--frob"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--frob" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a site needs root before it looks at anything else")
class TestSite:
    def test_a_port_in_use_is_named_with_the_mend(self, tmp_path: Path) -> None:
        with socket.create_server(("", 0)) as listener:
            port = listener.getsockname()[1]
            said = refused("edgesite", "up", "--data", str(tmp_path / "s"), "--port", str(port))
        assert f"port {port} cannot be used" in said
        assert "--port" in said
        assert not (tmp_path / "s").exists()

    def test_a_containerd_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with socket.create_server(("", 0)) as probe:
            port = probe.getsockname()[1]
        endpoint = f"unix://{tmp_path}/no.sock"
        said = refused("edgesite", "up", "--data", str(tmp_path / "s"), "--port", str(port), "--containerd", endpoint)
        assert f"there is no containerd at {tmp_path}/no.sock" in said

    @pytest.mark.parametrize("option", [("--name", "No Such Name"), ("--pod-subnet", "10.0.0.0/99")])
    def test_an_impossible_option_is_named(self, option: tuple[str, str], tmp_path: Path) -> None:
        said = refused("edgesite", "up", "--data", str(tmp_path / "s"), *option)
        assert "nodeName" in said or option[1] in said
