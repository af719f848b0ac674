"""edgecore's configuration file: the Go project's keys, defaults and clear refusals."""

import logging
import re

import pytest
import yaml
from click.testing import CliRunner

from edgehive.api.config.durations import seconds
from edgehive.api.config.edgecore import EdgeCore
from edgehive.edgecore import app
from edgehive.kit.config import ConfigError, parse


def test_an_empty_file_means_the_defaults_of_the_go_project():
    config = parse("", EdgeCore)
    hub = config.modules.edge_hub
    assert (hub.heartbeat, hub.message_qps, hub.message_burst) == (15, 30, 60)
    assert hub.project_id == "e632aba927ea4ac2b575ec1603d56f10"
    assert config.database.data_source == "/var/lib/kubeedge/edgecore.db"
    kubelet = config.modules.edged.tailored_kubelet_config
    assert (kubelet.read_only_port, kubelet.max_pods, kubelet.node_status_report_frequency) == (10350, 110, "5m0s")


def test_both_printed_configurations_are_read_back_without_a_warning(caplog):
    for flag in ("--defaultconfig", "--minconfig"):
        result = CliRunner().invoke(app.main, [flag])
        assert result.exit_code == 0
        with caplog.at_level(logging.WARNING):
            config = parse(result.output, EdgeCore)
        assert config.modules.edge_hub.http_server.startswith("https://")
        assert config.modules.edge_hub.websocket.server.endswith(":10000")
    assert caplog.records == []
    assert yaml.safe_load(result.output)["kind"] == "EdgeCore"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("modules: {edgeHub: {heartbeat: soon}}", "modules.edgeHub.heartbeat: Expected int, got str"),
        ("modules: {edgeHub: {heartbeat: 0}}", "modules.edgeHub.heartbeat: Expected int >= 1"),
        ("modules: {edged: {tailoredKubeletConfig: {syncFrequency: 10x}}}", "syncFrequency: '10x' is no duration"),
        ("kind: CloudCore", "kind: Invalid enum value 'CloudCore'; write 'EdgeCore'"),
        (
            "modules: {edged: {tailoredKubeletConfig: {cgroupDriver: v2}}}",
            "cgroupDriver: Invalid enum value 'v2'; write 'cgroupfs' or 'systemd'",
        ),
        ("a: [", "not valid YAML"),
        ("- a", "must be a mapping"),
    ],
)
def test_what_is_wrong_is_named(text, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        parse(text, EdgeCore)


def test_the_command_ends_with_one_sentence(tmp_path):
    bad = tmp_path / "edgecore.yaml"
    bad.write_text("modules: {edgeHub: {heartbeat: soon}}")
    result = CliRunner().invoke(app.main, ["--config", str(bad)])
    assert result.exit_code == 1
    assert result.stderr.startswith("edgecore: ")
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output
    missing = CliRunner().invoke(app.main, ["--config", str(tmp_path / "none.yaml")])
    assert missing.exit_code == 1
    assert "name an existing file" in missing.stderr


def test_edgecore_does_not_start_beside_a_kubelet(tmp_path):
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "comm").write_text("bash\n")
    (tmp_path / "self").mkdir()
    app.refuse_beside_kubelet(tmp_path)
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "comm").write_text("kubelet\n")
    with pytest.raises(app.Refused, match=r"process 77.*stop it first"):
        app.refuse_beside_kubelet(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"), [("1m0s", 60), ("100ms", 0.1), ("4h", 14400), ("1h2m3.5s", 3723.5), ("0", 0), ("-5s", -5)]
)
def test_durations(text, expected):
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "5d", "1m-2s"])
def test_bad_durations(text):
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            "mqttServerExternal: 127.0.0.1:mqtt",
            "mqttServerExternal is '127.0.0.1:mqtt'; write tcp://host:1883, or ssl://",
        ),
        (
            "mqttServerExternal: ws://127.0.0.1:8080",
            "mqttServerExternal is 'ws://127.0.0.1:8080'; write tcp://host:1883",
        ),
        ("mqttMode: 0, mqttServerInternal: 'tcp://'", "mqttServerInternal is 'tcp://'; write tcp://host:1883"),
        (
            "mqttMode: 0, mqttServerInternal: 'ssl://127.0.0.1:8884'",
            "mqttServerInternal is ssl://127.0.0.1:8884, and the broker inside this node has no certificate; set "
            "eventBusTLS.enable and its files, or write tcp://",
        ),
    ],
)
def test_an_address_of_a_broker_is_checked_when_the_file_is_read(settings: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"modules: {{eventBus: {{enable: true, {settings}}}}}", EdgeCore)
    assert sentence in str(caught.value)
    assert "modules.eventBus" in str(caught.value)


@pytest.mark.parametrize("settings", ["enable: false, mqttServerExternal: nonsense://", "mqttServerInternal: ''"])
def test_an_address_nobody_uses_is_not_checked(settings: str) -> None:
    parse(f"modules: {{eventBus: {{{settings}}}}}", EdgeCore)
