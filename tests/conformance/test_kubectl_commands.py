"""Each command of an unmodified kubectl that writes or asks, with the line it prints."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from edgehive.api.registry import CERTIFICATE_SIGNING_REQUESTS, NODES
from edgehive.kit.clock import SystemClock
from edgehive.testing.cluster import Cluster

pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]

MANIFEST = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n"
CSR = {
    "metadata": {"name": "c1"},
    "spec": {"request": "LS0t", "signerName": "example.com/signer", "usages": ["client auth"]},
}
#: What to run, parted by `;`, and what the last prints; each row has a cluster of its own.
COMMANDS = (
    ("run box --image=busybox", "pod/box created"),
    ("run box --image=busybox; expose pod box --port=80", "service/box exposed"),
    ("create deployment w --image=busybox; expose deployment w --port=80", "service/w exposed"),
    ("create deployment w --image=busybox; set image deployment/w busybox=busybox:2", "apps/w image updated"),
    ("create deployment w --image=busybox; set env deployment/w A=b", "apps/w env updated"),
    ("create cronjob cj --image=busybox --schedule=@daily; create job j --from=cronjob/cj", "job.batch/j created"),
    ("create service nodeport np --tcp=80:80", "service/np created"),
    ("create service externalname en --external-name=a.b", "service/en created"),
    ("create secret docker-registry dr --docker-username=u --docker-password=p", "secret/dr created"),
    ("taint nodes n1 a=b:NoSchedule", "node/n1 tainted"),
    ("cordon n1", "node/n1 cordoned"),
    ("cordon n1; uncordon n1", "node/n1 uncordoned"),
    ("drain n1 --force --ignore-daemonsets", "node/n1 drained"),
    ("certificate approve c1", "certificates.k8s.io/c1 approved"),
    ("auth can-i create pods", "yes"),
    ("auth whoami", "admin"),
    ("events", "No events found in default namespace."),
    ("explain pod.spec", "activeDeadlineSeconds"),
    ("api-versions", "autoscaling/v2"),
    ("create -f MANIFEST; replace -f MANIFEST", "configmap/a replaced"),
    ("create -f MANIFEST; replace --force -f MANIFEST", "configmap/a replaced"),
    ("create -f MANIFEST; diff -f MANIFEST", ""),
)


@pytest.mark.parametrize(("commands", "printed"), COMMANDS, ids=[row[0].rpartition("; ")[2] for row in COMMANDS])
async def test_a_command_succeeds_and_says_so(commands: str, printed: str, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")}
    async with Cluster(clock=SystemClock()) as cluster, cluster.serve() as url:
        await cluster.client().create(NODES, {"metadata": {"name": "n1"}})
        await cluster.client().create(CERTIFICATE_SIGNING_REQUESTS, CSR)
        for command in commands.replace("MANIFEST", str(manifest)).split("; "):
            process = await asyncio.create_subprocess_exec(
                "kubectl", f"--server={url}", *command.split(), env=environment,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            async with asyncio.timeout(30):
                output, _ = await process.communicate()
            assert process.returncode == 0, output.decode()
    assert printed in output.decode()
