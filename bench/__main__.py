"""`python -m bench [name …] [--minutes N]`: run benchmarks, write bench/results/<name>.json, print a table.

Soaking takes half an hour and is run by its name only; `--minutes` shortens it.
"""

import argparse
import sys
from collections.abc import Callable

from bench import (
    api_server,
    bus,
    certificates,
    delivery,
    delivery_processes,
    devices,
    fleet,
    halves,
    liars,
    pairings,
    replicas,
    simulation,
    site,
    soak,
    streams,
    twins,
)
from bench.report import Figure, show, write

SOAK = "soak"
BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "bus": bus.run,
    "api-server": api_server.run,
    "site": site.run,
    "halves": halves.run,
    "pairings": pairings.run,
    "certificates": certificates.run,
    "fleet": fleet.run,
    "streams": streams.run,
    "twins": twins.run,
    "devices": devices.run,
    "replicas": replicas.run,
    "liars": liars.run,
    "simulation": simulation.run,
    "delivery": delivery.run,
    "delivery-processes": delivery_processes.run,
}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="*", metavar="name")
    parser.add_argument("--minutes", type=float, default=soak.MINUTES, help="how long to soak")
    asked = parser.parse_args(words)
    known = (*BENCHMARKS, SOAK)
    if unknown := [name for name in asked.names if name not in known]:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(known)}")
    for name in asked.names or BENCHMARKS:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures = soak.run(asked.minutes) if name == SOAK else BENCHMARKS[name]()
        write(name, figures)
        show(name, figures)
    return 0


sys.exit(main(sys.argv[1:]))
