"""The edgesite command where no containers are needed: refusals, remembered options, the lock, the folder guard."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgehive.api.config.edgesite import EdgeSite
from edgehive.edgesite import app, preflight, process, progress
from edgehive.edgesite.layout import Layout
from edgehive.testing.ports import free_port


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app.main, list(arguments))


def test_without_root_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = run("up", "--data", str(tmp_path / "site"))
    assert result.exit_code == 1
    assert "needs root" in result.output
    assert not (tmp_path / "site").exists()


def test_a_port_in_use_is_named_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("up", "--data", str(tmp_path / "site"), "--port", str(port))
    assert result.exit_code == 1
    assert f"port {port} cannot be used" in result.output
    assert "--port" in result.output


def test_a_second_site_is_told_how_to_take_another_kubelet_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("up", "--data", str(tmp_path / "site"), "--port", str(free_port()), "--kubelet-port", str(port))
    assert result.exit_code == 1
    assert f"port {port} cannot be used" in result.output
    assert "choose another one with --kubelet-port" in result.output


def test_a_containerd_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(preflight.NotPossible, match=r"no containerd at /nowhere\.sock"):
        preflight.check(0, 0, "unix:///nowhere.sock")


def test_an_impossible_node_name_is_refused(tmp_path: Path) -> None:
    result = run("up", "--data", str(tmp_path / "site"), "--name", "No Such Name")
    assert result.exit_code == 1
    assert "nodeName" in result.output


def test_what_the_site_was_started_with_is_remembered(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.write_config(EdgeSite(node_name="shop", port=7443))
    assert layout.read_config() == EdgeSite(node_name="shop", port=7443)


def test_broken_configuration_is_one_sentence(tmp_path: Path) -> None:
    Layout(tmp_path).config.write_text("port: many\n")
    result = run("up", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "port" in result.output
    assert "Traceback" not in result.output


def test_status_of_a_site_that_does_not_run(tmp_path: Path) -> None:
    result = run("status", "--data", str(tmp_path), "-o", "json")
    assert result.exit_code == 3
    assert json.loads(result.output)["running"] is False


def test_down_touches_no_folder_that_up_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    result = run("down", "--purge", "--data", str(tmp_path))
    assert result.exit_code == 0
    assert "there is no site" in result.output
    assert (tmp_path / "precious").exists()


def test_one_process_holds_a_site_and_a_leftover_pid_file_stops_nobody(tmp_path: Path) -> None:
    with process.hold(tmp_path):
        assert process.running(tmp_path) is not None
        with pytest.raises(process.AlreadyRunning), process.hold(tmp_path):
            pass
    assert process.running(tmp_path) is None
    (tmp_path / process.PID_FILE).write_text("1\n")
    assert process.running(tmp_path) is None
    with process.hold(tmp_path):
        pass


def test_the_starting_site_tells_how_far_it_is(tmp_path: Path) -> None:
    teller = progress.Progress(tmp_path, 42)
    assert progress.read(tmp_path) is None
    teller.starting("waiting")
    assert progress.read(tmp_path) == progress.State("starting", "waiting", 42)
    teller.ready(1.5)
    assert progress.read(tmp_path) == progress.State("ready", "", 42, 1.5)
    teller.stopped()
    assert progress.read(tmp_path) is None


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)
    (tmp_path / "file").touch()
    inside = str(tmp_path / "file" / "site")
    started = run("up", "--data", inside)
    assert started.exit_code == 1
    assert started.output.startswith(f"edgesite: the site cannot keep its data in {inside}")
    assert "--data" in started.output
    assert run("status", "--data", inside).exit_code == 3


def test_an_unknown_log_level_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    result = run("up", "--data", str(tmp_path / "site"), "--log-level", "loud")
    assert result.exit_code == 2
    assert "'loud' is not one of" in result.output
    assert not (tmp_path / "site").exists()


def test_purge_empties_a_disk_that_is_mounted_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path / "site")
    (layout.data / "edge").mkdir(parents=True)
    layout.write_config(EdgeSite())
    monkeypatch.setattr(Path, "is_mount", lambda path: path == layout.data)
    assert run("down", "--purge", "--data", str(layout.data)).exit_code == 0
    assert list(layout.data.iterdir()) == []
