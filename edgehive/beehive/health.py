"""`/healthz`, `/readyz`, `/statusz` and `/metrics` of a process, from its Hive's state. Reads, never changes."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from edgehive.beehive.hive import Hive
from edgehive.kit import process_metrics


def routes(hive: Hive, registry: CollectorRegistry | None = None) -> list[web.RouteDef]:
    """Routes to add to any aiohttp application."""
    told = registry or hive.registry
    process_metrics.expose(told)

    async def healthz(_: web.Request) -> web.Response:
        health = hive.health()
        return web.Response(text="ok" if health.live else _lines(health.modules), status=200 if health.live else 503)

    async def readyz(_: web.Request) -> web.Response:
        health = hive.health()
        if health.ready:
            return web.Response(text="ok")
        return web.Response(text=f"waiting for {', '.join(health.awaited) or 'the first module'}\n", status=503)

    async def statusz(_: web.Request) -> web.Response:
        health = hive.health()
        return web.json_response(
            {
                "name": hive.name,
                "live": health.live,
                "ready": health.ready,
                "modules": [
                    {"name": name, "state": state, "restarts": health.restarts.get(name, 0)}
                    for name, state in health.modules.items()
                ],
            }
        )

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(told)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [
        web.get("/healthz", healthz),
        web.get("/livez", healthz),
        web.get("/readyz", readyz),
        web.get("/statusz", statusz),
        web.get("/metrics", metrics),
    ]


def _lines(modules: dict[str, str]) -> str:
    return "".join(f"{name}: {state}\n" for name, state in modules.items())
