"""Devices with an HTTP interface. Certificates of https are verified.

device   url          what paths are added to, http://192.0.2.7
         tokenFile    its text is sent as a bearer token
         timeout      milliseconds (5000)
visitor  path         what is read (GET), /api/state
         field        the value in a JSON answer: temperature.inside or 0.value; without it the whole text
         writePath    what is written to (`path`), writeMethod PUT, POST or PATCH (PUT)
         body         what is written, with {value} in it: {"target": {value}}; without it the plain value
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, InvalidURL

from edgehive.kit.http import read_answer
from edgehive.mapper import Value, Visitor, run
from edgehive.mappers.json_fields import filled, value_in

#: A longer answer is an error.
ANSWER_LIMIT = 1024 * 1024
_METHODS = ("PUT", "POST", "PATCH")


class Http:
    """One device. Nothing is asked before the first read."""

    protocol = "http"

    def __init__(self) -> None:
        self._session: ClientSession | None = None
        self._url = ""

    async def open(self, config: Mapping[str, Any]) -> None:
        self._url = str(config.get("url", "")).rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise ValueError(f"url {self._url!r} is no address like http://192.0.2.7")
        headers = {"Authorization": f"Bearer {_token(config)}"} if "tokenFile" in config else {}
        timeout = ClientTimeout(total=float(config.get("timeout", 5000)) / 1000)
        self._session = ClientSession(headers=headers, timeout=timeout)

    async def read(self, visitor: Visitor) -> Value:
        return value_in(await self._ask("GET", _path(visitor, "path")), str(visitor.config.get("field", "")))

    async def write(self, visitor: Visitor, value: Value) -> None:
        method = str(visitor.config.get("writeMethod", "PUT")).upper()
        if method not in _METHODS:
            raise ValueError(f"writeMethod {method!r} is none of {', '.join(_METHODS)}")
        path = _path(visitor, "writePath" if "writePath" in visitor.config else "path")
        await self._ask(method, path, filled(str(visitor.config.get("body", "")), value))

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        if self._session is None:
            raise ConnectionError("the device is not open")
        headers = {"Content-Type": "application/json" if body[:1] in (b"{", b"[") else "text/plain"} if body else {}
        try:
            async with self._session.request(method, self._url + path, data=body, headers=headers) as answer:
                text = await read_answer(answer, ANSWER_LIMIT)
                if answer.status >= 300:
                    said = text[:200].decode(errors="replace")
                    raise ValueError(f"{method} {path}: HTTP {answer.status} {said}".strip())
                return text
        except InvalidURL as error:
            raise ValueError(f"{self._url}{path} is no address: {error}") from error
        except ClientError as error:
            raise ConnectionError(f"{method} {path}: {error or type(error).__name__}") from error


def _path(visitor: Visitor, name: str) -> str:
    path = str(visitor.config.get(name, ""))
    if not path.startswith("/"):
        raise ValueError(f"{name} {path!r} does not begin with a slash")
    return path


def _token(config: Mapping[str, Any]) -> str:
    try:
        return Path(str(config["tokenFile"])).read_text().strip()
    except OSError as error:
        raise ValueError(f"tokenFile {config['tokenFile']} cannot be read: {error.strerror}") from error


if __name__ == "__main__":
    run(Http)
