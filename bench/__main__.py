"""`python -m bench [name …]`: run benchmarks, write bench/results/<name>.json, print a table."""

import sys
from collections.abc import Callable

from bench import (
    api_server,
    bus,
    certificates,
    delivery,
    delivery_processes,
    fleet,
    halves,
    liars,
    pairings,
    replicas,
    simulation,
    site,
    streams,
)
from bench.report import Figure, show, write

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "bus": bus.run,
    "api-server": api_server.run,
    "site": site.run,
    "halves": halves.run,
    "pairings": pairings.run,
    "certificates": certificates.run,
    "fleet": fleet.run,
    "streams": streams.run,
    "replicas": replicas.run,
    "liars": liars.run,
    "simulation": simulation.run,
    "delivery": delivery.run,
    "delivery-processes": delivery_processes.run,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures = BENCHMARKS[name]()
        write(name, figures)
        show(name, figures)
    return 0


sys.exit(main(sys.argv[1:]))
