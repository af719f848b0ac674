"""The mapper SDK: write a class with `open`, `read`, `write` and `close`, and `run` it.

class Thermometer:
    protocol = "thermometer"

    async def open(self, config): ...
    async def read(self, visitor): return 21.5
    async def write(self, visitor, value): ...
    async def close(self): ...
"""

from pathlib import Path

from edgehive.mapper.driver import Driver, Value, Visitor

__all__ = ["Driver", "Value", "Visitor", "run"]


def run(
    driver: type[Driver], *, edge_socket: str | Path = "", socket: str | Path = "", name: str = "", http: str = ""
) -> None:
    """Be a mapper for the devices of `driver.protocol` until SIGTERM or SIGINT.

    `edge_socket` is edgecore's (/etc/kubeedge/dmi.sock), `socket` our own (by default beside it), `name` what edgecore
    calls us (`<protocol>-mapper`), `http` where methods of devices can be called ("7777": on this machine only).
    """
    # What serves and calls is imported here: a driver's tests need none of it.
    from edgehive.mapper.service import run_driver

    run_driver(driver, edge_socket=edge_socket, socket=socket, name=name, http=http)
