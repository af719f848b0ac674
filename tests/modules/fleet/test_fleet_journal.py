"""What a fleet notes: waiting ends when nothing comes, whatever else happens; costs are read off the process."""

import asyncio
import os
import subprocess
import sys

import pytest

from edgehive.testing.fleet.journal import Journal, Waited
from edgehive.testing.fleet.meter import Meter, NoSuchProcess
from edgehive.testing.fleet.scenarios import Outcome, Phase


@pytest.mark.looptime
async def test_waiting_ends_although_other_things_go_on() -> None:
    journal, left = Journal(), 3

    async def lease_renewals() -> None:
        nonlocal left
        for second in range(100):
            journal.took("lease renewal", 0.1)
            left -= second == 5
            await asyncio.sleep(1)

    renewals = asyncio.ensure_future(lease_renewals())
    began = asyncio.get_running_loop().time()
    with pytest.raises(Waited, match="2 pods are missing, and none came for 10 s"):
        await journal.until(lambda: left, 10, "pods")
    assert 15 <= asyncio.get_running_loop().time() - began < 17
    renewals.cancel()


async def test_waiting_ends_when_all_has_come() -> None:
    journal = Journal()
    asyncio.get_running_loop().call_soon(journal.pod_delivered, "a", 1.0)
    await journal.until(lambda: 1 - len(journal.delivered), 5, "pods")


def test_quantiles_are_of_the_nearest_rank() -> None:
    journal = Journal()
    for value in range(1, 101):
        journal.took("x", value)
    found = journal.quantiles()["x"]
    assert (found.count, found.p50, found.p99, found.max) == (100, 50, 99, 100)


def test_a_process_is_measured_with_its_children() -> None:
    meter = Meter(os.getpid())
    before = meter.cpu()
    subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    assert meter.cpu() > before
    assert meter.resident() > 1024 * 1024


def test_a_process_that_is_not_there_is_named() -> None:
    with pytest.raises(NoSuchProcess, match="the server process 4194305 cannot be measured"):
        Meter(4194305)


def test_what_goes_on_beside_a_scenario_is_taken_off() -> None:
    outcome = Outcome(10, idle={"fresh": 0.0, "idle": 0.01, "steady": 0.1})
    for baseline, expected in (("fresh", 0.02), ("idle", 0.019), ("steady", 0.01)):
        phase = Phase("x", "unit", units=100, window=10.0, cpu=2.0, baseline=baseline)
        assert outcome.cpu_per_unit(phase) == pytest.approx(expected)
    assert outcome.cpu_per_unit(Phase("x", "unit", units=100)) is None


def test_lease_renewals_beside_a_scenario_cost_what_one_costs_alone() -> None:
    outcome = Outcome(10, idle={"idle": 0.01, "steady": 0.5})
    outcome.phases.append(Phase("lease renewal", "renewal", units=100, window=10.0, cpu=0.6, baseline="idle"))
    # Ten nodes renew once a second together, at 5 ms each.
    phase = Phase("x", "unit", units=100, window=10.0, cpu=2.0)
    assert outcome.cpu_per_unit(phase) == pytest.approx((2.0 - 0.1 - 0.05) / 100)
