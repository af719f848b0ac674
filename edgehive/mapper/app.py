"""The `mapper` command: try a driver, run it, begin a new one, and check any mapper over DMI."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from edgehive import __version__
from edgehive.kit import log as logs
from edgehive.kit.fatal import Fatal
from edgehive.mapper.device_file import BadFile
from edgehive.mapper.inspection import NotADriver, load

EDGE_SOCKET = "/etc/kubeedge/dmi.sock"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="mapper %(version)s")
def cli() -> None:
    """Bring a device to Kubernetes: write a driver, try it here, run it at the edge."""


@cli.command()
@click.argument("driver", type=click.Path(path_type=Path))
@click.option("--device", "devices", type=click.Path(path_type=Path), required=True, help="YAML: Device, DeviceModel.")
@click.option("--deadline", default=10.0, show_default=True, help="Seconds one call of the driver may take.")
def dev(driver: Path, devices: Path, deadline: float) -> None:
    """Run DRIVER (a Python file, or modbus, virtual...) with no cluster and no edgecore.

    Values are shown as they are read. Type NAME=VALUE and Enter to set a desired value, METHOD NAME=VALUE to call a
    method, q to leave; with several devices DEVICE.NAME=VALUE.
    """
    from edgehive.mapper.workbench import Workbench

    bench = Workbench(load(driver), devices, deadline=deadline)
    asyncio.run(bench.run())


@cli.command()
@click.argument("driver", type=click.Path(path_type=Path))
@click.option("--edge-socket", type=click.Path(path_type=Path), default=EDGE_SOCKET, show_default=True)
@click.option("--socket", type=click.Path(path_type=Path), help="Our own; by default beside the edge's.")
@click.option("--name", default="", help="What edgecore calls this mapper.  [default: PROTOCOL-mapper]")
@click.option("--deadline", default=10.0, show_default=True, help="Seconds one call of the driver may take.")
@click.option("--http", metavar="[HOST:]PORT", help="Where methods of devices are called; Go's mappers have 7777.")
@click.option("--http-cert", type=click.Path(path_type=Path), help="The certificate (PEM) of --http, for TLS.")
@click.option("--http-key", type=click.Path(path_type=Path), help="Its key.")
@click.option("--http-client-ca", type=click.Path(path_type=Path), help="Admit only certificates of this CA.")
@click.option("--verbose", is_flag=True)
@click.option("--end-with-parent", is_flag=True, help="Stop when standard input ends.")
def run(
    driver: Path,
    edge_socket: Path,
    socket: Path | None,
    name: str,
    deadline: float,
    http: str | None,
    http_cert: Path | None,
    http_key: Path | None,
    http_client_ca: Path | None,
    verbose: bool,
    end_with_parent: bool,
) -> None:
    """Be the mapper of an edge node with DRIVER (a Python file, or modbus, virtual...)."""
    found = load(driver)
    try:
        from edgehive.mapper.http_door import HttpDoor
        from edgehive.mapper.service import Mapper, serve
    except ImportError as error:
        raise click.ClickException(f"{error.name} is needed: pip install 'edgehive[mapper]'") from None
    logs.setup("debug" if verbose else "info")
    try:
        door = HttpDoor.parse(http or "", http_cert, http_key, http_client_ca)
        mapper = Mapper(
            found,
            protocol=found.protocol,
            edge_socket=edge_socket,
            socket=socket,
            name=name,
            http=door,
            deadline=deadline,
        )
        asyncio.run(serve(mapper, end_with_parent=end_with_parent))
    except* (OSError, ValueError, Fatal) as group:
        raise click.ClickException("; ".join(str(error) for error in group.exceptions)) from None


@cli.command()
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path), default=Path(), help="The folder to make it in.")
def new(name: str, into: Path) -> None:
    """Make a project: a driver, its device, and tests that pass."""
    from edgehive.mapper.project import make

    try:
        folder = make(name, into)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{folder}/ is made. Try it:\n\n  cd {folder}\n  mapper dev driver.py --device device.yaml\n  pytest")


@cli.command()
@click.option("--socket", type=click.Path(path_type=Path), required=True, help="Where the kit is the edge (dmi.sock).")
@click.option("--device", type=click.Path(path_type=Path), required=True, help="YAML of a device that works.")
@click.option("--command", default="", help="Starts the mapper, so that the kit can end and restart it too.")
@click.option("--only", default="", help="Checks whose group or title has this text.")
@click.option("--wait", default=60.0, show_default=True, help="Seconds the mapper has to register.")
def conformance(socket: Path, device: Path, command: str, only: str, wait: float) -> None:
    """Play the edge before a mapper in any language, and check what it does.

    Start the mapper so that it registers at --socket, or let the kit do it with --command. Exit code 1: a check
    failed.
    """
    from edgehive.mapper.conformance.app import examine

    sys.exit(asyncio.run(examine(socket.absolute(), device, command, only, wait)))


def main(arguments: Sequence[str] | None = None, prog_name: str = "mapper") -> None:
    """Run the command; what is wrong is one line on stderr and exit code 1."""
    try:
        cli.main(args=list(arguments) if arguments is not None else None, prog_name=prog_name)
    except (NotADriver, BadFile) as error:
        click.echo(f"mapper: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
