"""Each command of an unmodified kubectl that writes or asks, with the line it prints."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest

from edgehive.api.registry import CERTIFICATE_SIGNING_REQUESTS, NODES
from edgehive.kit import tls
from edgehive.kit.clock import SystemClock
from edgehive.kube.server.app import ServerOptions
from edgehive.testing.cluster import Cluster

pytestmark = [
    pytest.mark.kubectl,
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
    ("create secret tls t --cert=CERT --key=KEY", "secret/t created"),
    ("create secret tls t --cert=CERT --key=KEY; get secret t -o jsonpath={.type}", "kubernetes.io/tls"),
    ("create configmap c --from-file=MANIFEST", "configmap/c created"),
    ("create serviceaccount bot; create token bot --duration=1h --audience=a", "ey"),
    (
        "run b --image=busybox; create serviceaccount bot; create token bot --bound-object-kind=Pod "
        "--bound-object-name=b",
        "ey",
    ),
    ("create -f UNKNOWN --validate=warn", 'Warning: unknown field "colour"'),
    ("run box --image=busybox; label pod box team=edge; get pods -L team", "edge"),
    ("get crd; get --raw /apis/metrics.k8s.io/v1beta1/nodes", '"kind":"NodeMetricsList"'),
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
    files = {"MANIFEST": MANIFEST.encode(), "UNKNOWN": f"{MANIFEST}colour: red\n".encode()}
    if "CERT" in commands:
        authority = tls.self_signed_ca("ca", SystemClock().now(), timedelta(days=1))
        files |= {"CERT": authority.certificate_pem, "KEY": authority.key_pem}
    for name, content in files.items():
        (tmp_path / name.lower()).write_bytes(content)
        commands = commands.replace(name, str(tmp_path / name.lower()))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")}
    options = ServerOptions(service_account_key=tls.new_key(), node_metrics=True)
    async with Cluster(clock=SystemClock(), options=options) as cluster, cluster.serve() as url:
        await cluster.client().create(NODES, {"metadata": {"name": "n1"}})
        await cluster.client().create(CERTIFICATE_SIGNING_REQUESTS, CSR)
        for command in commands.split("; "):
            process = await asyncio.create_subprocess_exec(
                "kubectl", f"--server={url}", *command.split(), env=environment,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            async with asyncio.timeout(30):
                output, _ = await process.communicate()
            assert process.returncode == 0, output.decode()
    assert printed in output.decode()
