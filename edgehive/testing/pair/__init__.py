"""Both halves in one process and in virtual time, on a link, a disk, an API and a runtime that fail when told to.

`Pair` is for stories told by hand, with a stand-in for edged. `world.World` is the whole: edged itself over a
container runtime in memory. `simulation.simulate(seed)` tells a whole story of faults from one number.
"""

from edgehive.testing.pair.disk import InlineDatabase
from edgehive.testing.pair.pair import EDGE_LABEL, NODE, QUIET_SECONDS, Pair

__all__ = ["EDGE_LABEL", "NODE", "QUIET_SECONDS", "InlineDatabase", "Pair"]
