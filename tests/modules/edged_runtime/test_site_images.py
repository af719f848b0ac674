"""The site's own images and containerd configuration, without running anything."""

import json
import shutil
import struct
import sys
import tarfile
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from edgehive.edgesite import containerd as site_containerd
from edgehive.edgesite.containerd import ContainerdUnavailable, PrivateContainerd, containerd_config, network_config
from edgehive.edgesite.images import (
    PAUSE,
    ImageSourceMissing,
    busybox_image,
    hello_image,
    pause_image,
    pause_program,
    read_archive,
    write_archive,
)

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
needs_busybox = pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox-static is not installed")


def test_pause_is_a_tiny_static_program() -> None:
    program = pause_program()
    assert len(program) == 129
    assert program[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", program, 18) == (62,)


def test_images_are_reproducible() -> None:
    assert pause_image("x86_64").manifest.digest == pause_image("x86_64").manifest.digest


@needs_busybox
def test_pause_elsewhere_is_busybox_waiting() -> None:
    config = json.loads(pause_image("aarch64").blobs[-1].data)
    assert config["architecture"] == "arm64"
    assert config["config"]["Entrypoint"] == ["/bin/busybox", "tail", "-f", "/dev/null"]


@needs_busybox
def test_hello_shares_busyboxs_layer_and_names_its_port() -> None:
    hello, busybox = hello_image(), busybox_image()
    assert hello.blobs[0].digest == busybox.blobs[0].digest
    config = json.loads(hello.blobs[-1].data)
    assert config["config"]["ExposedPorts"] == {"8080/tcp": {}}


def test_archives_go_out_and_come_back(tmp_path: Path) -> None:
    image = pause_image("x86_64")
    write_archive(image, tmp_path / "a.tar")
    write_archive(image, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert read_archive(tmp_path / "a.tar") == [image]
    assert image.name == PAUSE


def test_what_is_no_archive_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no tar")
    with tarfile.open(tmp_path / "y", "w"):
        pass
    for name in ("x", "y"):
        with pytest.raises(ValueError, match="is no OCI image archive"):
            read_archive(tmp_path / name)


def test_without_busybox_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ImageSourceMissing, match="apt-get install busybox-static"):
        busybox_image()


async def test_without_containerd_all_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(site_containerd, "_PLUGIN_FOLDERS", (tmp_path,))
    with pytest.raises(ContainerdUnavailable) as missing:
        await PrivateContainerd(tmp_path).start()
    assert str(missing.value).endswith(
        "apt-get install --no-install-recommends containerd runc iptables iproute2 containernetworking-plugins"
    )


async def test_a_folder_too_deep_for_a_socket_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(site_containerd, "preflight", lambda: tmp_path)
    with pytest.raises(ContainerdUnavailable, match="choose a shorter data folder"):
        await PrivateContainerd(tmp_path / ("x" * 100)).start()


def test_configuration_stays_below_the_root(tmp_path: Path) -> None:
    config = tomllib.loads(containerd_config(tmp_path, Path("/plugins")))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert cri["sandbox_image"] == PAUSE
    assert cri["cni"]["bin_dir"] == "/plugins"
    places = (config["root"], config["state"], config["grpc"]["address"], cri["cni"]["conf_dir"])
    assert all(place.startswith(str(tmp_path)) for place in places)
    plugins = network_config(tmp_path, "br7", "10.1.0.0/24")["plugins"]
    assert [plugin["type"] for plugin in plugins] == ["bridge", "portmap"]  # type: ignore[attr-defined,index]


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    gen_protos = import_module("gen_protos")
    assert gen_protos.stale(gen_protos.generate(tmp_path)) == []
