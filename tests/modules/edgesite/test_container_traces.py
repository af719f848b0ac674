"""What a site's containers left in the machine's firewall is taken away, and nothing else."""

import subprocess
import sys

import pytest

_RULES = """
set -e
ip link set lo up
ip link add ours0 type bridge
half=CNI-0123456789abcdef01234567 used=CNI-1123456789abcdef01234567 old=CNI-2123456789abcdef01234567
for chain in CNI-ours CNI-other $half $used $old; do iptables -w -t nat -N $chain; done
iptables -w -t nat -A CNI-ours ! -d 224.0.0.0/4 -m comment --comment 'name: "ours0" id: "1"' -j MASQUERADE
iptables -w -t nat -A CNI-other ! -d 224.0.0.0/4 -m comment --comment 'name: "other0" id: "2"' -j MASQUERADE
iptables -w -t nat -A POSTROUTING -s 10.89.0.2/32 -m comment --comment 'name: "ours0" id: "1"' -j CNI-ours
iptables -w -t nat -A POSTROUTING -s 10.90.0.2/32 -m comment --comment 'name: "other0" id: "2"' -j CNI-other
iptables -w -t nat -A POSTROUTING -s 10.90.0.3/32 -j $used
"$0" -c 'from edgehive.edgesite.container_traces import existing_chains, link, remove_empty_chains, remove_masquerading
assert link("ours0") and not link("ours1")
assert len(existing_chains()) == 3
remove_masquerading("ours0")
remove_empty_chains(kept=["CNI-2123456789abcdef01234567"])'
iptables -w -t nat -S
"""


@pytest.mark.containerd
def test_the_masquerading_of_lost_pods_goes_and_that_of_others_stays() -> None:
    done = subprocess.run(["unshare", "--net", "sh", "-c", _RULES, sys.executable], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CNI-ours" not in done.stdout
    assert "-A POSTROUTING -s 10.90.0.2/32" in done.stdout
    assert "-A CNI-other" in done.stdout
    left = {line[3:] for line in done.stdout.splitlines() if line.startswith("-N CNI-") and "abcdef" in line}
    assert left == {"CNI-1123456789abcdef01234567", "CNI-2123456789abcdef01234567"}
