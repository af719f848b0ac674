"""The embedded MQTT broker: a mosquitto of our own, with a private configuration, started again whenever it ends.

For `mqttMode` 0 and 1. It listens where the configuration says (Go's default is 127.0.0.1:1884), with TLS at an `ssl://`
address, and keeps nothing on disk.

Go: edge/pkg/eventbus/mqtt/server.go
"""

import asyncio
import base64
import hashlib
import logging
import os
import pwd
import secrets
import shutil
import ssl
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from edgehive.api.config.broker_address import Address
from edgehive.kit.backoff import Backoff

log = logging.getLogger("edgehive.eventbus")

#: Where packages put it; /usr/sbin is not on everybody's path.
PLACES = ("/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto")
#: A message's bytes at most.
MESSAGE_LIMIT = 1024 * 1024
RESTART = Backoff(first=0.5, factor=2.0, limit=30.0, jitter=0.2)
#: Seconds it has to end when it is told to.
STOP_SECONDS = 5.0
_ITERATIONS = 101


class BrokerMissing(Exception):
    """There is no broker to start; the text names the mend."""


class BadCertificate(Exception):
    """The broker cannot serve TLS; the text names the files."""


class Certificate(NamedTuple):
    """What the broker shows; both are files."""

    certificate: Path
    key: Path


class Broker:
    """One mosquitto on `address`; `password` "" admits everybody, `certificate` is for an `ssl://` address."""

    def __init__(
        self,
        address: Address,
        *,
        queue_size: int,
        username: str = "",
        password: str = "",
        certificate: Certificate | None = None,
    ) -> None:
        self._address = address
        self._queue_size = queue_size
        self._username = username
        self._password = password
        self._certificate = certificate

    async def run(self) -> None:
        """Keep it running until cancelled; raises BrokerMissing or BadCertificate."""
        program = find()
        attempt = 0
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryDirectory(prefix="edgehive-mosquitto-") as folder:
            while True:
                configuration = self._write(Path(folder))
                started = loop.time()
                async with _process(program, configuration) as process:
                    said = await _listen(process)
                attempt = attempt + 1 if loop.time() - started < 10 else 0
                log.error("the broker on %s ended: %s", self._address, said or f"code {process.returncode}")
                await asyncio.sleep(RESTART.delay(attempt))

    def _write(self, folder: Path) -> Path:
        """Its configuration; where root starts it, files are the user's it becomes."""
        files = {"mosquitto.conf": self.configuration(folder)}
        if self._username:
            files["passwords"] = f"{self._username}:{hashed(self._password)}\n"
        if self._certificate is not None:
            files |= _read(self._certificate)
        user = _becomes()
        for name, text in files.items():
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(text)
            if user is not None:
                os.chown(path, user.pw_uid, user.pw_gid)
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        return folder / "mosquitto.conf"

    def configuration(self, folder: Path) -> str:
        lines = [
            f"listener {self._address.port} {self._address.host}",
            f"max_queued_messages {self._queue_size}",
            f"message_size_limit {MESSAGE_LIMIT}",
            "persistence false",
            "set_tcp_nodelay true",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            f"allow_anonymous {'false' if self._username else 'true'}",
        ]
        if self._username:
            lines.append(f"password_file {folder / 'passwords'}")
        if self._certificate is not None:
            lines += [f"certfile {folder / 'certificate'}", f"keyfile {folder / 'key'}", "tls_version tlsv1.2"]
        return "\n".join(lines) + "\n"


def _read(pair: Certificate) -> dict[str, str]:
    """The broker becomes a user who may not read them where they are."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certificate, pair.key)
        return {"certificate": pair.certificate.read_text(), "key": pair.key.read_text()}
    except OSError as error:  # ssl.SSLError is one
        raise BadCertificate(
            f"modules.eventBus.eventBusTLS: the broker inside this node cannot serve TLS with {pair.certificate} and "
            f"{pair.key}: {error}; make them readable, or write tcp:// in mqttServerInternal"
        ) from error


def find() -> str:
    """The path of mosquitto; raises BrokerMissing."""
    found = shutil.which("mosquitto") or next((place for place in PLACES if os.access(place, os.X_OK)), None)
    if found is None:
        raise BrokerMissing(
            "modules.eventBus.mqttMode asks for a broker inside this node and mosquitto is not installed; install it "
            "(apt-get install mosquitto), or set mqttMode to 2 and mqttServerExternal to a broker of yours"
        )
    return found


def hashed(password: str) -> str:
    """As mosquitto_passwd writes it; the password itself comes onto no command line."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _becomes() -> pwd.struct_passwd | None:
    """The user mosquitto turns into when root starts it."""
    if os.geteuid() != 0:
        return None
    for name in ("mosquitto", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


@asynccontextmanager
async def _process(program: str, configuration: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(configuration),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.wait()


async def _listen(process: asyncio.subprocess.Process) -> str:
    """Its last words, when it has ended."""
    assert process.stderr is not None
    words: deque[str] = deque(maxlen=3)
    while True:
        try:
            line = await process.stderr.readline()
        except ValueError:
            continue  # a line longer than the reader's limit tells nothing
        if not line:
            await process.wait()
            return "; ".join(words)
        words.append(line.decode(errors="replace").strip())
        log.warning("mosquitto: %s", words[-1])
