"""A tiny OCI registry on loopback for tests with real pulls: manifests, blobs, and both ways to ask who is there."""

import base64
import json
import platform
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from edgehive.edgecore.edged.containerd import Blob
from edgehive.edgesite.images import Image, Layer, _busybox_layer, _image
from edgehive.kit.http import serve

USER, PASSWORD = "robot", "let me in"


def fresh_image(marker: str) -> Image:
    """Busybox with a layer nobody has yet, so that a pull really fetches something; /marker holds the text."""
    layer = Layer(files={"marker": (0o644, f"{marker}\n".encode()), "unique": (0o644, uuid.uuid4().bytes)})
    return _image("unnamed", [_busybox_layer(), layer], (), platform.machine(), command=["sh"])


class Registry:
    """Its memory outlives its door: `serve()` again is the same registry coming back, on the same port."""

    def __init__(self, auth: str = "") -> None:
        #: "", "basic" or "bearer"
        self.auth = auth
        self.port = 0
        #: Every manifest that was given out, by name:tag or name@digest; and how many blobs.
        self.pulled: list[str] = []
        self.blobs_sent = 0
        self._manifests: dict[tuple[str, str], Blob] = {}
        self._blobs: dict[str, Blob] = {}
        self._tokens: set[str] = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def push(self, name: str, tag: str, image: Image) -> str:
        """The reference pods name it by."""
        for key in (tag, image.manifest.digest):
            self._manifests[(name, key)] = image.manifest
        self._blobs |= {blob.digest: blob for blob in image.blobs}
        return f"{self.host}/{name}:{tag}"

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        app = web.Application()
        app.add_routes([
            web.get("/v2/", self._root),
            web.get("/v2/{name:.+}/manifests/{reference}", self._manifest),
            web.get("/v2/{name:.+}/blobs/{digest}", self._blob),
            web.get("/token", self._token),
        ])  # fmt: skip
        async with serve(app, host="127.0.0.1", port=self.port) as (_, self.port):
            yield

    async def _root(self, request: web.Request) -> web.Response:
        return self._stranger(request) or web.json_response({})

    async def _manifest(self, request: web.Request) -> web.Response:
        if refused := self._stranger(request):
            return refused
        name, reference = request.match_info["name"], request.match_info["reference"]
        found = self._manifests.get((name, reference))
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", f"{name} has no {reference}")
        if request.method == "GET":
            self.pulled.append(f"{name}:{reference}")
        return _content(found)

    async def _blob(self, request: web.Request) -> web.Response:
        if refused := self._stranger(request):
            return refused
        found = self._blobs.get(request.match_info["digest"])
        if found is None:
            return _error(404, "BLOB_UNKNOWN", "no such blob")
        self.blobs_sent += 1
        return _content(found)

    # who is there

    def _stranger(self, request: web.Request) -> web.Response | None:
        """The answer to somebody who may not pull; None for the others."""
        given = request.headers.get("Authorization", "")
        if not self.auth or (self.auth == "basic" and _is_user(given)):
            return None
        if self.auth == "bearer" and given.removeprefix("Bearer ") in self._tokens:
            return None
        realm = (
            f'Bearer realm="http://{self.host}/token",service="test"' if self.auth == "bearer" else 'Basic realm="t"'
        )
        refusal = _error(401, "UNAUTHORIZED", "who are you?")
        refusal.headers["WWW-Authenticate"] = realm
        return refusal

    async def _token(self, request: web.Request) -> web.Response:
        if not _is_user(request.headers.get("Authorization", "")):
            return _error(401, "UNAUTHORIZED", "wrong name or password")
        token = uuid.uuid4().hex
        self._tokens.add(token)
        return web.json_response({"token": token})


def pull_secret(registry: Registry, user: str = USER, password: str = PASSWORD) -> dict[str, Any]:
    """The body of a kubernetes.io/dockerconfigjson secret."""
    text = json.dumps({"auths": {registry.host: {"username": user, "password": password}}})
    data = {".dockerconfigjson": base64.b64encode(text.encode()).decode()}
    return {"type": "kubernetes.io/dockerconfigjson", "data": data}


def _is_user(header: str) -> bool:
    return header == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def _content(blob: Blob) -> web.Response:
    headers = {"Content-Type": blob.media_type, "Docker-Content-Digest": blob.digest}
    return web.Response(body=blob.data, headers=headers)


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status)
