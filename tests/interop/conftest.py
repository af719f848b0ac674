"""Sets a pairing up once for all tests of it, and makes `pairings` importable for the tests beside it.

With our own parts alone a pairing runs wherever containers run; the others need the Go programs (`EDGEHIVE_GO_PEERS`).
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgehive.testing import stock
from edgehive.testing.two_hosts import two_hosts

sys.path.insert(0, str(Path(__file__).parent))

from pairings import PAIRINGS, Pairing


@pytest.fixture(scope="package", params=PAIRINGS)
def pairing(request: pytest.FixtureRequest) -> Iterator[Pairing]:
    name: str = request.param
    _needs(name)
    said: list[str] = []
    with two_hosts(said.append, cast=PAIRINGS[name]) as hosts:
        found = Pairing(name, hosts)
        # A stock edge keeps for good what it was answered when it asked for something that was not there yet.
        for needed in ("serviceaccount/default", "configmap/kube-root-ca.crt"):
            found.until(f"{needed} of the cluster", lambda needed=needed: found.get(needed))  # type: ignore[misc]
        failed = request.session.testsfailed
        yield found
        if request.session.testsfailed > failed:
            _keep_logs(found)


def _keep_logs(pairing: Pairing) -> None:
    """What its programs said outlives a pairing in which a test failed."""
    kept = Path(tempfile.mkdtemp(prefix=f"pairing-{pairing.name}-"))
    for log in [*pairing.hosts.data.glob("*.log"), *(pairing.hosts.data / "site").glob("*.log")]:
        shutil.copy(log, kept)
    print(f"the logs of {pairing.name} are in {kept}")


def _needs(name: str) -> None:
    """Skip where the Go programs of the pairing are not to be had."""
    if name != "ours-alone":
        try:
            cast = PAIRINGS[name]
            for program in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"):
                stock.program(program)
            cast.cloudcore(), cast.edgecore()
        except stock.StockMissing as error:
            pytest.skip(str(error))
