"""The images a site brings along: pause, busybox and hello, made in pure Python from what the machine has.

For `app.py` and tests: no registry, no build tool. The same machine makes the same bytes every time. Images come
and go as OCI archives too, so that a node without a network can be given more of them.
"""

import gzip
import hashlib
import io
import json
import platform
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgehive.edgecore.edged.containerd import Blob, Containerd

PAUSE = "localhost/pause:1"
BUSYBOX = "localhost/busybox:1"
HELLO = "localhost/edgehive-hello:1"

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_INDEX = "application/vnd.oci.image.index.v1+json"
_NAME_ANNOTATION = "io.containerd.image.name"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Archives are read whole; an edge node is given images of its own size.
_MAX_ARCHIVE = 2 * 1024 * 1024 * 1024

#: As PID 1 a shell forwards the end politely; httpd alone would ignore SIGTERM and cost the whole grace period.
_HELLO_SCRIPT = b"""#!/bin/sh
mkdir -p /tmp/www
cat > /tmp/www/index.html <<PAGE
<!doctype html><title>edgehive</title>
<h1>Hello from ${POD_NAME:-$(hostname)}</h1>
<p>Served by busybox httpd in a container run by edgehive${NODE_NAME:+ on node $NODE_NAME}.</p>
PAGE
trap 'kill $server; exit 0' TERM INT
httpd -f -p 8080 -h /tmp/www &
server=$!
echo "serving on port 8080"
wait $server
"""


class ImageSourceMissing(Exception):
    """The machine lacks what an image is made from; the message names the package."""


@dataclass(frozen=True, slots=True)
class Image:
    """A complete image of one platform."""

    name: str
    manifest: Blob
    blobs: tuple[Blob, ...]


@dataclass(slots=True)
class Layer:
    """Files of one layer: path -> (mode, content), symlink targets, folders."""

    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)

    def tar(self) -> bytes:
        """Uncompressed, in a fixed order and without times or owners."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(self.folders):
                archive.addfile(_entry(path, tarfile.DIRTYPE, self.folders[path]))
            for path, (mode, content) in sorted(self.files.items()):
                entry = _entry(path, tarfile.REGTYPE, mode)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            for path, target in sorted(self.links.items()):
                entry = _entry(path, tarfile.SYMTYPE, 0o777)
                entry.linkname = target
                archive.addfile(entry)
        return buffer.getvalue()


def _entry(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type = kind
    entry.mode = mode
    return entry


# --- the three images -------------------------------------------------------------------------------------


def pause_image(machine: str = "") -> Image:
    """Holds a pod's namespaces: a 129-byte program on amd64, busybox waiting for ever elsewhere."""
    machine = machine or platform.machine()
    if machine == "x86_64":
        return _image(PAUSE, [Layer(files={"pause": (0o755, pause_program())})], ["/pause"], machine)
    waiting = ["/bin/busybox", "tail", "-f", "/dev/null"]
    return _image(PAUSE, [Layer(files={"bin/busybox": (0o755, _busybox().read_bytes())})], waiting, machine)


def busybox_image() -> Image:
    """The machine's static busybox with a link for each of its applets."""
    return _image(BUSYBOX, [_busybox_layer()], (), platform.machine(), command=["sh"])


def hello_image() -> Image:
    """Serves a page on port 8080 that names the pod."""
    script = Layer(files={"bin/hello": (0o755, _HELLO_SCRIPT)})
    return _image(HELLO, [_busybox_layer(), script], ["/bin/hello"], platform.machine(), ports=[8080])


def pause_program() -> bytes:
    """A static amd64 ELF: `for (;;) pause();`"""
    code = bytes.fromhex("b822000000 0f05 ebf7")
    base, header, program = 0x400000, 64, 56
    size = header + program + len(code)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, 62, 1, base + header + program, header, 0, 0, header, program, 1, 0, 0, 0
    )
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


def _busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        raise ImageSourceMissing("busybox is not installed: apt-get install busybox-static")
    path = Path(found).resolve()
    if b"/ld-" in path.read_bytes()[:4096]:
        raise ImageSourceMissing(f"{path} needs shared libraries: apt-get install busybox-static")
    return path


def _busybox_layer() -> Layer:
    busybox = _busybox()
    listing = subprocess.run(  # noqa: S603 - the machine's own busybox, no shell
        [str(busybox), "--list-full"], capture_output=True, timeout=10, check=True
    )
    layer = Layer(
        files={
            "bin/busybox": (0o755, busybox.read_bytes()),
            "etc/passwd": (0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
            "etc/group": (0o644, b"root:x:0:\nnogroup:x:65534:\n"),
        },
        folders={"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777},
    )
    for path in listing.stdout.decode().split():
        # All applets go to one folder, as in a machine where /usr/bin and /bin are the same.
        name = path.rpartition("/")[2]
        if name != "busybox":
            layer.links[f"bin/{name}"] = "busybox"
    for merged in ("sbin", "usr/bin", "usr/sbin"):
        layer.links[merged] = "../" * merged.count("/") + "bin"
    layer.folders["usr"] = 0o755
    return layer


# --- images as blobs and archives -------------------------------------------------------------------------


def _image(
    name: str,
    layers: Sequence[Layer],
    entrypoint: Sequence[str],
    machine: str,
    *,
    command: Sequence[str] = (),
    ports: Sequence[int] = (),
) -> Image:
    tars = [layer.tar() for layer in layers]
    packed = [_blob(_LAYER, gzip.compress(data, compresslevel=6, mtime=0)) for data in tars]
    settings: dict[str, Any] = {"Env": [_PATH], "Entrypoint": list(entrypoint), "Cmd": list(command)}
    if ports:
        settings["ExposedPorts"] = {f"{port}/tcp": {} for port in ports}
    config = _json_blob(_CONFIG, {
        "architecture": _ARCHITECTURES.get(machine, machine), "os": "linux", "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [_digest(data) for data in tars]},
    })  # fmt: skip
    manifest = _json_blob(_MANIFEST, {
        "schemaVersion": 2, "mediaType": _MANIFEST, "config": _descriptor(config),
        "layers": [_descriptor(blob) for blob in packed],
    })  # fmt: skip
    return _assemble(name, manifest, {blob.digest: blob for blob in (*packed, config)})


def _assemble(name: str, manifest: Blob, blobs: Mapping[str, Blob]) -> Image:
    """Put the labels on the manifest that tie its blobs to it in containerd's garbage collector."""
    content = json.loads(manifest.data)
    labels = {"containerd.io/gc.ref.content.config": content["config"]["digest"]}
    for number, layer in enumerate(content["layers"]):
        labels[f"containerd.io/gc.ref.content.l.{number}"] = layer["digest"]
    wanted = dict.fromkeys([*(layer["digest"] for layer in content["layers"]), content["config"]["digest"]])
    labelled = Blob(manifest.digest, manifest.media_type, manifest.data, labels)
    return Image(name, labelled, tuple(blobs[digest] for digest in wanted))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(media_type: str, data: bytes) -> Blob:
    return Blob(_digest(data), media_type, data)


def _json_blob(media_type: str, content: Mapping[str, Any]) -> Blob:
    return _blob(media_type, json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def _descriptor(blob: Blob) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": len(blob.data)}


def write_archive(image: Image, path: Path) -> None:
    """An OCI image-layout tar that containerd, podman and skopeo load."""
    index = {
        "schemaVersion": 2, "mediaType": _INDEX,
        "manifests": [_descriptor(image.manifest) | {"annotations": {_NAME_ANNOTATION: image.name}}],
    }  # fmt: skip
    layout = Layer(files={
        "oci-layout": (0o644, b'{"imageLayoutVersion":"1.0.0"}'),
        "index.json": (0o644, json.dumps(index, sort_keys=True).encode()),
        **{f"blobs/{b.digest.replace(':', '/')}": (0o644, b.data) for b in (image.manifest, *image.blobs)},
    })  # fmt: skip
    path.write_bytes(layout.tar())


def read_archive(path: Path) -> list[Image]:
    """The named images of an OCI image-layout tar; ValueError says what is wrong with it."""
    if path.stat().st_size > _MAX_ARCHIVE:
        raise ValueError(f"{path} is larger than {_MAX_ARCHIVE} bytes")
    try:
        with tarfile.open(path) as archive:
            held = {item.name.removeprefix("./"): archive.extractfile(item) for item in archive if item.isfile()}
            files = {name: source.read() for name, source in held.items() if source is not None}
        index = json.loads(files["index.json"])
        return [_from_layout(entry, files) for entry in index["manifests"]]
    except (tarfile.TarError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no OCI image archive of a single platform: {error!r}") from error


def _from_layout(entry: Mapping[str, Any], files: Mapping[str, bytes]) -> Image:
    annotations = entry.get("annotations") or {}
    name = annotations.get(_NAME_ANNOTATION) or annotations["org.opencontainers.image.ref.name"]
    manifest = _stored(entry, files)
    content = json.loads(manifest.data)
    blobs = [_stored(item, files) for item in (*content["layers"], content["config"])]
    return _assemble(name, manifest, {blob.digest: blob for blob in blobs})


def _stored(descriptor: Mapping[str, Any], files: Mapping[str, bytes]) -> Blob:
    digest = descriptor["digest"]
    data = files[f"blobs/{digest.replace(':', '/')}"]
    if _digest(data) != digest:
        raise KeyError(f"blob {digest} is damaged")
    return Blob(digest, descriptor["mediaType"], data)


async def import_image(containerd: Containerd, image: Image) -> None:
    """Make the image usable by pods at once. Idempotent; raises RuntimeRefused."""
    await containerd.import_image(image.name, list(image.blobs), image.manifest)
