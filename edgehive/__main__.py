"""`python -m edgehive <component> ...`: one door to every process.

Components are imported only when they are named, so that one never pays for another.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from edgehive import __version__

COMPONENTS = {
    "cloudcore": ("edgehive.cloudcore.app", "the cloud half: hub, controllers"),
    "edgecore": ("edgehive.edgecore.app", "the edge half: runs pods on a node"),
    "edgesite": ("edgehive.edgesite.app", "a whole cluster on this machine"),
    "mapper": ("edgehive.mapper.app", "bring a device to Kubernetes: write, try and run a mapper"),
    "devices": ("edgehive.devices_view.app", "what devices report and are to do, live; one property as a curve"),
    "fleet": ("edgehive.testing.fleet.app", "many hollow nodes, to try a cloudcore with"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the named component with the rest of the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--version"]:
        print(f"edgehive {__version__}")
        return
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] not in COMPONENTS:
        print(f"edgehive: there is no component {words[0]!r}; known are {', '.join(COMPONENTS)}", file=sys.stderr)
        sys.exit(2)
    import_module(COMPONENTS[words[0]][0]).main(words[1:], prog_name=f"edgehive {words[0]}")


def _help() -> str:
    rows = "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMPONENTS.items())
    return f"usage: edgehive COMPONENT [OPTIONS]\n\n{rows}\n\nedgehive COMPONENT --help tells more."


if __name__ == "__main__":
    main()
