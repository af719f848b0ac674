"""Checks of how a mapper registers, and what it says of itself."""

import asyncio
import stat
from pathlib import Path

from edgehive.mapper.conformance.bench import PATIENCE, STEADY, Bench, Broken, NotTried
from edgehive.mapper.conformance.edge import unavailable
from edgehive.mapper.conformance.kit import check

GROUP = "registration"


@check(GROUP, "the request has the mapper")
async def _(bench: Bench) -> None:
    if not bench.edge.registrations[-1][1].HasField("mapper"):
        raise Broken("MapperRegister came without `mapper`, which ends a stock edgecore")


@check(GROUP, "it asks for its devices (withData)")
async def _(bench: Bench) -> None:
    if not bench.edge.registrations[-1][1].withData:
        raise Broken("withData is false, and a stock edgecore then never calls the mapper")


@check(GROUP, "its name is 1 to 200 characters without a slash")
async def _(bench: Bench) -> None:
    if not 0 < len(bench.info.name) <= 200 or "/" in bench.info.name:
        raise Broken(f"the name is {bench.info.name[:220]!r}")


@check(GROUP, "its version is told")
async def _(bench: Bench) -> None:
    if not bench.info.version:
        raise Broken("version is empty")


@check(GROUP, "its api_version is told")
async def _(bench: Bench) -> None:
    # Go's mappers say what stands in their configuration, v1.0.0 in its template, and no edge looks at it.
    if not bench.info.api_version:
        raise Broken("api_version is empty")


@check(GROUP, "its protocol is that of the device")
async def _(bench: Bench) -> None:
    if bench.info.protocol != bench.definition.protocol:
        raise Broken(f"the mapper speaks {bench.info.protocol!r}, the device {bench.definition.protocol!r}")


@check(GROUP, "its address is text")
async def _(bench: Bench) -> None:
    try:
        bench.info.address.decode()
    except UnicodeDecodeError as error:
        raise Broken(f"address is no UTF-8: {error}") from None


@check(GROUP, "its address is an absolute path of at most 107 bytes")
async def _(bench: Bench) -> None:
    path = _path(bench)
    if not path.is_absolute() or len(str(path).encode()) > 107:
        raise Broken(f"address is {str(path)!r}")


@check(GROUP, "a socket is at its address")
async def _(bench: Bench) -> None:
    if not _path(bench).is_socket():
        raise Broken(f"there is no socket at {_path(bench)}")


@check(GROUP, "others on the machine may not use its socket")
async def _(bench: Bench) -> None:
    mode = _path(bench).stat().st_mode
    if mode & stat.S_IWOTH:
        raise Broken(f"the socket's mode is {stat.filemode(mode)}")


@check(GROUP, "it answers at its address")
async def _(bench: Bench) -> None:
    await bench.answering()


@check(GROUP, "it takes the devices of the answer")
async def _(bench: Bench) -> None:
    await bench.first_report(bench.device(STEADY))


@check(GROUP, "it registers once and not again and again")
async def _(bench: Bench) -> None:
    before = len(bench.edge.registrations)
    await asyncio.sleep(1.5)
    if len(bench.edge.registrations) > before:
        raise Broken(f"{len(bench.edge.registrations) - before} more registrations came within 1.5 s")


@check(GROUP, "it is heard of when the edge restarted")
async def _(bench: Bench) -> None:
    await _restart(bench)


@check(GROUP, "it tells every property again after a restart of the edge")
async def _(bench: Bench) -> None:
    since = bench.mark()
    await _restart(bench)
    for name in bench.definition.properties:
        await bench.first_report(bench.device(STEADY), name, since)


@check(GROUP, "an answer without devices removes none")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device)
    kept, bench.edge.devices = bench.edge.devices, []
    try:
        since = bench.mark()
        await _restart(bench)
        await bench.first_report(device, since=since)
    finally:
        bench.edge.devices = kept


@check(GROUP, "devices it was told of at run time go on after a restart of the edge")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device)
    since = bench.mark()
    await _restart(bench)
    await bench.first_report(device, since=since)


@check(GROUP, "an edge that is away for two seconds is found again")
async def _(bench: Bench) -> None:
    await _restart(bench, away=2.0)
    await bench.alive()


@check(GROUP, "a refused registration is tried again")
async def _(bench: Bench) -> None:
    bench.edge.refuse_registrations = unavailable()
    before = len(bench.edge.registrations)
    await _restart(bench)
    if not await bench.edge.until(lambda: len(bench.edge.registrations) > before, PATIENCE):
        raise NotTried("it does not register again, as an edge keeps its registration")
    before = len(bench.edge.registrations)
    bench.edge.refuse_registrations = None
    if not await bench.edge.until(lambda: len(bench.edge.registrations) > before, 2 * PATIENCE):
        raise Broken("no second registration came")
    await bench.alive()


@check(GROUP, "a model that is told twice is no harm")
async def _(bench: Bench) -> None:
    models = bench.edge.models
    bench.edge.models = [*models, *models]
    try:
        since = bench.mark()
        await _restart(bench)
        await bench.first_report(bench.device(STEADY), since=since)
    finally:
        bench.edge.models = models


def _path(bench: Bench) -> Path:
    return Path(bench.info.address.decode(errors="replace").removeprefix("unix://"))


async def _restart(bench: Bench, away: float = 0.2) -> None:
    """An edge keeps registrations: the mapper may register again, as ours do, or go on reporting, as Go's do."""
    before = len(bench.edge.registrations)
    await bench.close_edge()
    since = bench.mark()
    await asyncio.sleep(away)
    await bench.open_edge()

    def heard() -> bool:
        return len(bench.edge.registrations) > before or bench.mark() > since

    if not await bench.edge.until(heard, 2 * PATIENCE):
        raise Broken(f"it neither registered again nor reported anything within {2 * PATIENCE:g} s")
