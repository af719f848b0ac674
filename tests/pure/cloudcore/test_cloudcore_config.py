"""The configuration: Go's keys, the command's print-outs, and clear refusals."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from edgehive.api.config.cloudcore import CloudCore
from edgehive.cloudcore.app import main
from edgehive.kit.config import ConfigError, parse, unknown_keys

#: A file as keadm writes it.
GO_FILE = """
apiVersion: cloudcore.config.kubeedge.io/v1alpha2
kind: CloudCore
commonConfig: {tunnelPort: 10350, monitorServer: {bindAddress: "127.0.0.1:9091", enableProfiling: false}}
kubeAPIConfig:
  {burst: 5000, contentType: application/vnd.kubernetes.protobuf, kubeConfig: /root/.kube/config, master: "", qps: 2500}
featureGates: {requireAuthorization: false, moduleRestart: false, disableNodeTaskV1alpha2: false}
modules:
  cloudHub:
    advertiseAddress: [192.168.1.10]
    authorization: {enable: false, debug: true, modes: [{node: {enable: true}}]}
    dnsNames: [""]
    edgeCertSigningDuration: 365
    enable: true
    https: {address: 0.0.0.0, enable: true, port: 10002}
    keepaliveInterval: 30
    nodeLimit: 1000
    quic: {address: 0.0.0.0, enable: false, maxIncomingStreams: 10000, port: 10001}
    tlsCAFile: /etc/kubeedge/ca/rootCA.crt
    tlsCAKeyFile: /etc/kubeedge/ca/rootCA.key
    tlsCertFile: /etc/kubeedge/certs/server.crt
    tlsPrivateKeyFile: /etc/kubeedge/certs/server.key
    tokenRefreshDuration: 12
    unixsocket: {address: "unix:///var/lib/kubeedge/kubeedge.sock", enable: true}
    websocket: {address: 0.0.0.0, enable: true, port: 10000}
    writeTimeout: 30
  cloudStream: {enable: true, streamPort: 10003, tunnelPort: 10004, tlsStreamCAFile: /etc/kubeedge/ca/streamCA.crt}
  deviceController: {buffer: {deviceStatusEvent: 0, updateDeviceTwins: 1024}, enable: true}
  dynamicController: {enable: false}
  edgeController:
    buffer: {configMapEvent: 1, podEvent: 1, patchNode: 1524, queryNode: 2024}
    enable: true
    load: {ServiceAccountTokenWorkers: 100, CreatePodWorks: 4, UpdateRuleStatusWorkers: 4, queryNodeWorkers: 1000}
    nodeUpdateFrequency: 10
  iptablesManager: {enable: true, mode: external}
  router: {address: 0.0.0.0, enable: false, port: 9443, restTimeout: 60}
  syncController: {enable: true}
  taskManager: {buffer: {taskEvent: 1, taskStatus: 1024}, enable: false, load: {taskWorkers: 1}}
"""


def test_a_file_of_the_go_project_loads_without_a_warning() -> None:
    assert unknown_keys(yaml.safe_load(GO_FILE), CloudCore) == []
    config = parse(GO_FILE, CloudCore)
    assert config.modules.cloud_hub.node_limit == 1000
    assert not config.modules.cloud_hub.authorization.enforced
    assert config.modules.edge_controller.load.query_node_workers == 1000


def test_identity_is_enforced_unless_the_file_says_otherwise() -> None:
    assert CloudCore().modules.cloud_hub.authorization.enforced


@pytest.mark.parametrize("flag", ["--defaultconfig", "--minconfig"])
def test_what_the_command_prints_loads_again(flag: str) -> None:
    printed = CliRunner().invoke(main, [flag])
    assert printed.exit_code == 0
    config = parse(printed.output, CloudCore)
    assert unknown_keys(yaml.safe_load(printed.output), CloudCore) == []
    assert config.modules.cloud_hub.websocket.port == 10000
    if flag == "--minconfig":
        assert config.modules.cloud_hub.advertise_address != []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("modules: {cloudHub: {nodeLimit: many}}", "nodeLimit"),
        ("modules: {cloudHub: {websocket: {port: 99999}}}", "port"),
        ("modules: {cloudHub: {quic: {enable: true}}}", "websocket"),
        ("apiVersion: edgecore.config.kubeedge.io/v1alpha2", "apiVersion"),
        ("modules: [", "YAML"),
    ],
)
def test_a_bad_file_is_one_sentence_and_a_failure(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(text, CloudCore)
    file = tmp_path / "cloudcore.yaml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["--config", str(file)])
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_an_absent_file_and_an_absent_kubeconfig(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "none.yaml")])
    assert (result.exit_code, "cannot read" in result.output) == (1, True)
    file = tmp_path / "cloudcore.yaml"
    file.write_text(f"kubeAPIConfig: {{kubeConfig: {tmp_path}/none}}")
    result = CliRunner().invoke(main, ["--config", str(file)])
    assert (result.exit_code, "cannot read" in result.output) == (1, True)


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.startswith("cloudcore, version ")
