"""What users of KubeEdge count on, with either half replaced: joining, pods, configuration, volumes, cuts, restarts.

Every test runs on every pairing there is; the node is deleted last. The wire.md items they show stand in brackets.
"""

import base64
import json
import sqlite3
import sys
from typing import Any

import pytest
from pairings import Manifest, Pairing, container_ids, pod, ready

from edgehive.testing.two_hosts import CLOUD, EDGE, NODE

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(300)]

CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


def config_map(name: str, **data: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


def secret(name: str, **data: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "stringData": data,
    }


def mounted(**volumes: Manifest) -> dict[str, Any]:
    """Volumes by name, each mounted at /name."""
    return {
        "container": {"volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in volumes]},
        "volumes": [{"name": name, **source} for name, source in volumes.items()],
    }


def containers(found: Manifest) -> list[tuple[str, int]]:
    return [(item["containerID"], item["restartCount"]) for item in found["status"]["containerStatuses"]]


# Joining


def test_a_node_joins_by_token_and_looks_as_its_users_know_it(pairing: Pairing) -> None:
    """[43, 44, 46] The role label, the address, the version and the four conditions."""
    node = pairing.get("node", NODE)
    assert node["metadata"]["labels"]["node-role.kubernetes.io/edge"] == ""
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == NODE
    assert "kubeedge" in node["status"]["nodeInfo"]["kubeletVersion"]
    assert {"type": "InternalIP", "address": EDGE} in node["status"]["addresses"]
    assert {item["type"] for item in node["status"]["conditions"]} >= set(CONDITIONS)
    assert node["metadata"]["annotations"]


def test_the_lease_of_the_node_is_renewed(pairing: Pairing) -> None:
    def renewed() -> str:
        lease = pairing.get("-n", "kube-node-lease", "lease", NODE)
        return str(lease.get("spec", {}).get("renewTime", ""))

    pairing.until("a lease", renewed)
    first = renewed()
    pairing.until("the lease to be renewed", lambda: renewed() > first)


_ASK = """
import http.client, ssl, sys, json
order = json.load(sys.stdin)
context = ssl.create_default_context(cafile=order["ca"])
if order["certificate"]:
    context.load_cert_chain(order["certificate"], order["key"])
door = http.client.HTTPSConnection(order["host"], 10002, timeout=20, context=context)
try:
    door.request("GET", order["path"], body=bytes.fromhex(order["body"]), headers=order["headers"])
    answer = door.getresponse()
    print(json.dumps([answer.status, answer.read(1 << 20).hex()]))
except (OSError, http.client.HTTPException) as error:
    print(json.dumps([0, str(error).encode().hex()]))
"""


def ask(pairing: Pairing, node: str, *, token: str = "", certified: bool = False) -> tuple[int, bytes]:
    """Ask the door for joining nodes for a certificate, from the edge host: (HTTP status or 0, body)."""
    from edgehive.kit import tls

    folder = pairing.hosts.data / "edge"
    key = tls.new_key()
    request = tls.request(key, f"system:node:{node}", organizations=("system:nodes",))
    order = {
        "host": CLOUD,
        "path": "/edge.crt",
        "ca": str(folder / "ca" / "rootCA.crt"),
        "certificate": str(folder / "certs" / "server.crt") if certified else "",
        "key": str(folder / "certs" / "server.key"),
        "body": request.hex(),
        "headers": {"NodeName": node, **({"Authorization": f"Bearer {token}"} if token else {})},
    }
    order_file = pairing.hosts.data / "order.json"
    order_file.write_text(json.dumps(order))
    answer = pairing.hosts.edge.run("bash", "-c", f'exec "$0" -c "$1" < {order_file}', sys.executable, _ASK)
    status, body = json.loads(answer)
    return status, bytes.fromhex(body)


def bearer(pairing: Pairing) -> str:
    return pairing.hosts.token().split(".", 1)[1]


def test_a_certificate_is_issued_for_a_token(pairing: Pairing) -> None:
    """[3, 5]"""
    from cryptography import x509

    status, body = ask(pairing, "another-edge", token=bearer(pairing))
    assert status == 200, body
    certificate = x509.load_der_x509_certificate(body)
    assert "CN=system:node:another-edge" in certificate.subject.rfc4514_string()


def test_a_certificate_is_renewed_with_the_one_before(pairing: Pairing) -> None:
    """[6] For the same node only."""
    assert ask(pairing, NODE, certified=True)[0] == 200
    status, body = ask(pairing, "another-edge", certified=True)
    assert status in (0, 401, 403), body


def test_a_wrong_token_is_refused(pairing: Pairing) -> None:
    """[4]"""
    head, payload, signature = bearer(pairing).split(".")
    for wrong in ("", f"{head}.{payload}.{signature[:-4]}AAAA", f"{head}.{payload}.", "one two"):
        status, body = ask(pairing, "another-edge", token=wrong)
        assert status == 401, (wrong, body)
        assert b"token" in body


# Pods


def test_a_pod_comes_and_goes(pairing: Pairing) -> None:
    pairing.apply(pod("plain"))
    found = pairing.until_running("plain")
    assert found["status"]["hostIP"] == EDGE
    assert found["status"]["podIP"].startswith("10.89.77.")
    assert found["status"]["phase"] == "Running"
    pairing.delete_pods("plain")


def test_a_pod_ends_as_its_container_does(pairing: Pairing) -> None:
    pairing.apply(
        pod("good", "echo done", restartPolicy="Never"),
        pod("bad", "exit 3", restartPolicy="Never"),
        pod("again", "sleep 1; exit 4", restartPolicy="Always"),
    )
    pairing.until("phase Succeeded", lambda: pairing.get("pod", "good")["status"].get("phase") == "Succeeded")
    pairing.until("phase Failed", lambda: pairing.get("pod", "bad")["status"].get("phase") == "Failed")
    state = pairing.get("pod", "bad")["status"]["containerStatuses"][0]["state"]
    assert state["terminated"]["exitCode"] == 3

    def restarts() -> int:
        statuses = pairing.get("pod", "again")["status"].get("containerStatuses")
        return int(statuses[0]["restartCount"]) if statuses else 0

    pairing.until("a restart", lambda: restarts() >= 1)
    pairing.delete_pods("good", "bad", "again")


def test_configuration_reaches_environment_and_files_and_follows_changes(pairing: Pairing) -> None:
    """[42, 54, 55]"""
    pairing.apply(config_map("settings", colour="green"), secret("keys", door="1234"))
    volumes = mounted(config={"configMap": {"name": "settings"}}, keys={"secret": {"secretName": "keys"}})
    volumes["container"]["env"] = [
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
        {"name": "DOOR", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "door"}}},
    ]
    pairing.apply(pod("configured", **volumes))
    found = pairing.until_running("configured")
    assert pairing.inside(found, "sh", "-c", "cat /config/colour /keys/door") == "green1234"
    # Environment is that of the process, not of one started beside it.
    assert pairing.inside(
        found, "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ | grep -E '^(COLOUR|DOOR)='"
    ).split() in (
        ["COLOUR=green", "DOOR=1234"],
        ["DOOR=1234", "COLOUR=green"],
    )
    pairing.apply(config_map("settings", colour="blue"), secret("keys", door="5678"))
    pairing.until(
        "the change to reach the files",
        lambda: pairing.inside(found, "sh", "-c", "cat /config/colour /keys/door") == "blue5678",
        seconds=180,
    )
    pairing.delete_pods("configured")


def test_two_pods_that_ask_for_one_secret_at_once_both_start(pairing: Pairing) -> None:
    """[78]"""
    if pairing.cast.stock_cloudcore and pairing.cast.stock_edgecore:
        pytest.skip("stock halves answer one of two identical questions; the other pod waits a minute")
    pairing.apply(secret("shared", key="x"))
    names = [f"twin-{number}" for number in range(4)]
    pairing.apply(*(pod(name, **mounted(shared={"secret": {"secretName": "shared"}})) for name in names))
    for name in names:
        pairing.until_running(name, seconds=50)
    pairing.delete_pods(*names)


def test_a_pod_waits_for_its_missing_config_map(pairing: Pairing) -> None:
    """[51, 79] Nothing is mounted in its stead."""
    if pairing.cast.stock_edgecore:
        pytest.skip("stock edgecore mounts the error it was answered")
    pairing.apply(pod("patient", **mounted(late={"configMap": {"name": "late"}})))
    pairing.until("the pod to wait", lambda: waiting(pairing.get("pod", "patient")))
    assert not ready(pairing.get("pod", "patient"))
    pairing.apply(config_map("late", now="here"))
    found = pairing.until_running("patient", seconds=180)
    assert pairing.inside(found, "cat", "/late/now") == "here"
    pairing.delete_pods("patient")


def waiting(found: Manifest) -> bool:
    statuses = found.get("status", {}).get("containerStatuses") or ()
    return any("waiting" in item["state"] for item in statuses)


def test_a_pod_s_token_is_good_at_the_api_server(pairing: Pairing) -> None:
    """[50]"""
    pairing.apply(pod("holder"))
    found = pairing.until_running("holder")
    token = pairing.inside(found, "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["sub"] == "system:serviceaccount:default:default"
    assert claims["kubernetes.io"]["pod"]["name"] == "holder"
    review = pairing.hosts.data / "review.json"
    review.write_text(
        json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}})
    )
    answer = json.loads(pairing.kubectl("create", "-f", str(review), "-o", "json"))
    assert answer["status"].get("authenticated") is True, answer["status"]
    authority = pairing.inside(found, "cat", "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    assert authority.startswith("-----BEGIN CERTIFICATE-----")
    pairing.delete_pods("holder")


def test_a_claimed_volume_is_mounted(pairing: Pairing) -> None:
    """[42] The edge asks for the claim and the volume."""
    shelf = str(pairing.hosts.data / "shelf")
    meta = {"name": "shelf"}
    claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Mi"}}}
    pairing.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": meta,
            "spec": {
                "capacity": {"storage": "1Mi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": shelf, "type": "DirectoryOrCreate"},
                "claimRef": {"namespace": "default", "name": "shelf"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {**meta, "namespace": "default"},
            "spec": {**claim, "volumeName": "shelf"},
        },
    )
    if not pairing.cast.stock_control_plane:
        pytest.skip("a site has no controller that binds claims")
    pairing.until("the claim to be bound", lambda: pairing.get("pvc", "shelf")["status"].get("phase") == "Bound")
    pairing.apply(
        pod(
            "keeper",
            "echo kept > /shelf/note; sleep 600",
            **mounted(shelf={"persistentVolumeClaim": {"claimName": "shelf"}}),
        )
    )
    pairing.until_running("keeper")
    assert pairing.hosts.edge.run("cat", f"{shelf}/note") == "kept\n"
    pairing.delete_pods("keeper")


def test_the_edge_s_events_reach_the_cloud(pairing: Pairing) -> None:
    """[golden 09]"""
    pairing.apply(pod("noisy"))
    pairing.until_running("noisy")

    def reasons() -> set[str]:
        found = json.loads(pairing.kubectl("get", "events", "--field-selector=involvedObject.name=noisy", "-o", "json"))
        return {item["reason"] for item in found["items"]}

    pairing.until("events Created and Started", lambda: {"Created", "Started"} <= reasons())
    if not pairing.cast.stock_edgecore:
        pairing.until("the cloud to have every report", lambda: not kept_reports(pairing))
    pairing.delete_pods("noisy")


def test_a_deployment_rolls_over(pairing: Pairing) -> None:
    container = pod("any")["spec"]["containers"][0]
    spec = {"terminationGracePeriodSeconds": 2, "nodeSelector": {"kubernetes.io/hostname": NODE}}

    def deployment(colour: str) -> Manifest:
        template = {
            "metadata": {"labels": {"app": "web"}},
            "spec": {**spec, "containers": [{**container, "env": [{"name": "COLOUR", "value": colour}]}]},
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template},
        }

    for colour in ("red", "blue"):
        pairing.apply(deployment(colour))
        pairing.kubectl("rollout", "status", "deployment/web", "--timeout=50s")
    pairing.kubectl("delete", "deployment", "web", "--wait=false")
    pairing.until("its pods to be gone", lambda: not pairing.kubectl("get", "pods", "-l", "app=web", "-o", "name"))


# Logs, exec and their like, through the tunnel


def test_logs_are_read_through_the_tunnel(pairing: Pairing) -> None:
    """[69, 70, 71] Whole, the end, and as they come."""
    pairing.apply(
        pod("talker", "echo one; echo two; sleep 1; echo three; trap 'exit 0' TERM; while true; do sleep 0.1; done")
    )
    pairing.until_running("talker")
    pairing.until("the tunnel", lambda: pairing.tries("logs", "talker"))
    pairing.until("the log", lambda: pairing.kubectl("logs", "talker") == "one\ntwo\nthree\n")
    assert pairing.kubectl("logs", "talker", "--tail=1") == "three\n"
    followed = pairing.hosts.cloud.run("bash", "-c", f"{pairing.command('logs', '-f', 'talker')} & sleep 2; kill $!")
    assert followed == "one\ntwo\nthree\n"
    pairing.delete_pods("talker")


def test_logs_of_the_run_before_and_of_late(pairing: Pairing) -> None:
    """--previous and --since."""
    pairing.apply(pod("again", "echo run $$; sleep 6; echo over; exit 1"))
    pairing.until_running("again")
    # Stock edges tell as the log's text that there was no run before.
    pairing.until("a second run", lambda: containers(pairing.get("pod", "again"))[0][1] > 0)
    pairing.until("the tunnel", lambda: pairing.tries("logs", "again", "--previous"))
    assert pairing.kubectl("logs", "again", "--previous").splitlines()[-1] == "over"
    assert "run" not in pairing.kubectl("logs", "again", "--previous", "--since=1s")
    pairing.delete_pods("again")


def test_exec_runs_a_command_with_its_input_and_exit_code(pairing: Pairing) -> None:
    pairing.apply(pod("worker"))
    pairing.until_running("worker")
    pairing.until("the tunnel", lambda: pairing.tries("exec", "worker", "--", "true"))
    assert pairing.kubectl("exec", "worker", "--", "sh", "-c", "echo $((6*7))") == "42\n"
    command = pairing.command("exec", "-i", "worker", "--", "sh", "-c", '"cat; exit 3"')
    answer = pairing.hosts.cloud.run("bash", "-c", f"echo typed | {command}; echo code $?")
    assert answer == "typed\ncode 3\n"
    big = pairing.kubectl("exec", "worker", "--", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x")
    assert len(big) == 3_000_000
    pairing.delete_pods("worker")


def test_attach_and_cp(pairing: Pairing) -> None:
    pairing.apply(pod("box", "while read line; do echo got $line; done", container={"stdin": True}))
    pairing.until_running("box")
    command = pairing.command("attach", "-i", "box")
    answer = pairing.hosts.cloud.run("bash", "-c", f"(echo hello; sleep 3) | timeout 8 {command} || true")
    assert "got hello" in answer
    source = pairing.hosts.data / "carried"
    source.write_bytes(bytes(range(256)) * 1000)
    pairing.apply(pod("chest"))
    pairing.until_running("chest")
    # The image has busybox's tar.
    pairing.kubectl("cp", str(source), "chest:/tmp/carried")
    back = pairing.hosts.data / "back"
    pairing.kubectl("cp", "chest:/tmp/carried", str(back))
    assert back.read_bytes() == source.read_bytes()
    pairing.delete_pods("box", "chest")


def test_port_forward(pairing: Pairing) -> None:
    if pairing.cast.stock_cloudcore:
        pytest.skip("stock cloudcore has no port-forward")
    pairing.apply(pod("page", "mkdir -p /tmp/www; echo served > /tmp/www/x; exec httpd -f -p 8080 -h /tmp/www"))
    pairing.until_running("page")
    forward = pairing.command("port-forward", "pod/page", "18080:8080")
    fetch = (
        "import urllib.request as r; print(r.urlopen('http://127.0.0.1:18080/x', timeout=9).read().decode(), end='')"
    )
    answer = pairing.hosts.cloud.run(
        "bash", "-c", f'{forward} >/dev/null & sleep 2; "$0" -c "$1"; kill $!', sys.executable, fetch
    )
    assert answer == "served\n"
    pairing.delete_pods("page")


def test_top_shows_what_the_node_and_its_pods_use(pairing: Pairing) -> None:
    """metrics.k8s.io, by the API server's own word, of the node and of a pod with a container."""
    if pairing.cast.stock_cloudcore:
        pytest.skip("stock cloudcore serves no metrics")
    pairing.apply(pod("worker-ant", "trap 'exit 0' TERM; while true; do sleep 0.05; done"))
    pairing.until_running("worker-ant")
    pairing.until("the pod's metrics", lambda: pairing.tries("top", "pod", "worker-ant", "--containers"))
    (row,) = pairing.kubectl("top", "pod", "worker-ant", "--containers", "--no-headers").splitlines()
    assert row.split()[:2] == ["worker-ant", "main"]
    (row,) = pairing.kubectl("top", "node", "--no-headers").splitlines()
    name, cpu, _, memory, _ = row.split()
    assert name == NODE
    assert int(cpu.removesuffix("m")) > 0
    assert int(memory.removesuffix("Mi")) > 0
    assert pairing.tries("api-resources", "--api-group=metrics.k8s.io")
    pairing.delete_pods("worker-ant")


def test_an_autoscaler_follows_what_edge_pods_use(pairing: Pairing) -> None:
    """kube-controller-manager asks what the Deployment's pods use: each takes more than ten times its share."""
    if pairing.cast.stock_cloudcore or not pairing.cast.stock_control_plane:
        pytest.skip("stock cloudcore serves no metrics, and a site has no autoscaler")
    busy = pod("x", "trap 'exit 0' TERM; while true; do sleep 0.05; done")["spec"]["containers"][0]
    busy |= {"resources": {"requests": {"cpu": "1m"}}}
    spec = {"terminationGracePeriodSeconds": 2, "nodeSelector": {"kubernetes.io/hostname": NODE}, "containers": [busy]}
    labels = {"app": "herd"}
    template = {"metadata": {"labels": labels}, "spec": spec}
    meta = {"name": "herd", "namespace": "default"}
    deployment = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    pairing.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment})
    pairing.kubectl("rollout", "status", "deployment/herd", "--timeout=90s")
    pairing.kubectl("autoscale", "deployment", "herd", "--cpu-percent=100", "--min=1", "--max=2")
    pairing.until("a second pod", lambda: pairing.get("deployment", "herd")["spec"]["replicas"] == 2, seconds=120)
    used = pairing.get("hpa", "herd")["status"]["currentMetrics"][0]["resource"]["current"]
    assert used["averageUtilization"] > 100
    pairing.kubectl("delete", "hpa,deployment", "herd", "--wait=false")
    pairing.until("its pods to be gone", lambda: not pairing.kubectl("get", "pods", "-l", "app=herd", "-o", "name"))


# Apart and together again


def test_changes_made_while_the_cable_is_cut_arrive(pairing: Pairing) -> None:
    """[23, 40, 53] A new pod, a deleted one, one deleted and made again under its name, a changed ConfigMap."""
    pairing.apply(config_map("while", state="before"))
    names = ("stays", "goes", "anew")
    pairing.apply(*(pod(name, **mounted(state={"configMap": {"name": "while"}})) for name in names))
    before = {name: pairing.until_running(name) for name in names}
    pairing.hosts.cut()
    try:
        pairing.kubectl("delete", "pod", "goes", "anew", "--force", "--grace-period=0")
        pairing.apply(pod("anew"), pod("comes"), config_map("while", state="after"))
    finally:
        pairing.hosts.restore()
    pairing.until_running("comes", seconds=150)
    after = pairing.until_running("anew", seconds=150)
    assert after["metadata"]["uid"] != before["anew"]["metadata"]["uid"]
    assert containers(pairing.get("pod", "stays")) == containers(before["stays"])
    pairing.until(
        "the changed file", lambda: pairing.inside(before["stays"], "cat", "/state/state") == "after", seconds=180
    )
    pairing.until("the deleted pod's container to end", lambda: not runs(pairing, before["goes"]), seconds=120)
    names = ("stays", "anew", "comes")
    pairing.delete_pods(*names)


def runs(pairing: Pairing, found: Manifest) -> bool:
    return any(container in container_ids(found) and state == "RUNNING" for container, _, state in pairing.tasks())


@pytest.mark.parametrize("offline", [False, True], ids=["connected", "offline"])
def test_a_killed_edgecore_finds_its_containers_again(pairing: Pairing, offline: bool) -> None:
    """[56]"""
    name = "survivor-offline" if offline else "survivor"
    pairing.apply(pod(name))
    before = pairing.until_running(name)
    pairing.hosts.end_edgecore(kill=True)
    if offline:
        pairing.hosts.cut()
    pairing.hosts.start_edgecore()
    if offline:
        pairing.hosts.restore()
    heartbeat_after_restart(pairing)
    assert containers(pairing.until_running(name)) == containers(before)
    assert runs(pairing, before)
    pairing.delete_pods(name)


def heartbeat_after_restart(pairing: Pairing) -> None:
    """Wait until the agent speaks for its node again: the lease is renewed."""

    def renewed() -> str:
        return str(pairing.get("-n", "kube-node-lease", "lease", NODE)["spec"]["renewTime"])

    first = renewed()
    pairing.until("the lease to be renewed", lambda: renewed() > first, seconds=90)


def test_an_edge_that_lost_its_database_gets_everything_again(pairing: Pairing) -> None:
    """Nothing changed in the cloud meanwhile, so nothing but the loss itself can bring the objects back."""
    if pairing.cast.stock_cloudcore or pairing.cast.stock_edgecore:
        pytest.skip("a stock half has no way to say or to hear what the edge holds")
    pairing.apply(config_map("lost", state="found"))
    pairing.apply(pod("finder", **mounted(state={"configMap": {"name": "lost"}})))
    before = pairing.until_running("finder")
    pairing.hosts.end_edgecore(kill=True)
    for path in (pairing.hosts.data / "edge").glob("edgecore.db*"):
        path.unlink()
    pairing.hosts.start_edgecore()
    wanted = {"default/pod/finder", "default/configmap/lost"}
    pairing.until("the rows to be back", lambda: wanted <= rows(pairing))
    heartbeat_after_restart(pairing)
    assert containers(pairing.until_running("finder")) == containers(before)
    assert runs(pairing, before)
    pairing.delete_pods("finder")


def rows(pairing: Pairing) -> set[str]:
    """The keys of all objects in the edge's database."""
    return selected(pairing, "SELECT key FROM meta")


def kept_reports(pairing: Pairing) -> set[str]:
    """The reports our edge still keeps for the cloud."""
    return selected(pairing, "SELECT key FROM outbox")


def selected(pairing: Pairing, query: str) -> set[str]:
    path = pairing.hosts.data / "edge" / "edgecore.db"
    if not path.exists():
        return set()
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {value for (value,) in database.execute(query)}
    finally:
        database.close()


def test_changes_made_while_cloudcore_is_down_arrive(pairing: Pairing) -> None:
    """[39, 40]"""
    pairing.apply(pod("early"), pod("doomed"))
    before = pairing.until_running("early")
    doomed = pairing.until_running("doomed")
    pairing.hosts.end_cloudcore(kill=True)
    pairing.apply(pod("late"))
    pairing.kubectl("delete", "pod", "doomed", "--force", "--grace-period=0")
    pairing.hosts.start_cloudcore()
    pairing.until_running("late", seconds=150)
    pairing.until("the deleted pod's container to end", lambda: not runs(pairing, doomed), seconds=120)
    assert containers(pairing.get("pod", "early")) == containers(before)
    pairing.delete_pods("early", "late")


def test_devices_are_taken_and_acknowledged(pairing: Pairing) -> None:
    """[36, 42, 61] Whatever the edge makes of them, the cloud's record says that it has them, and no pod suffers."""
    meta = {"name": "thermometer", "namespace": "default"}
    celsius = {"name": "celsius", "type": "INT", "accessMode": "ReadOnly"}
    device = {
        "deviceModelRef": {"name": "thermometer"},
        "nodeName": NODE,
        "protocol": {"protocolName": "modbus", "configData": {}},
        "properties": [{"name": "celsius", "visitors": {"protocolName": "modbus", "configData": {}}}],
    }
    devices = "devices.kubeedge.io/v1beta1"
    model = {"protocol": "modbus", "properties": [celsius]}
    pairing.apply({"apiVersion": devices, "kind": "DeviceModel", "metadata": meta, "spec": model})
    pairing.apply({"apiVersion": devices, "kind": "Device", "metadata": meta, "spec": device})
    pairing.until("the device to be recorded", lambda: recorded(pairing, pairing.get("device", "thermometer")))
    pairing.kubectl("delete", "device,devicemodel", "thermometer")
    pairing.apply(pod("unharmed"))
    pairing.until_running("unharmed")
    pairing.delete_pods("unharmed")


def recorded(pairing: Pairing, found: Manifest) -> bool:
    """Whether the cloud has the edge's word for this version of an object."""
    record = pairing.get("objectsync", f"{NODE}.{found['metadata']['uid']}")
    version = record.get("status", {}).get("objectResourceVersion", "")
    return bool(version) and int(version) >= int(found["metadata"]["resourceVersion"])


def test_a_big_secret_passes(pairing: Pairing) -> None:
    """[13] As much as the API takes."""
    path = pairing.hosts.data / "big.json"
    path.write_text(json.dumps(secret("big", blob="x" * 700_000)))
    pairing.kubectl("create", "-f", str(path))
    pairing.apply(pod("heavy", **mounted(big={"secret": {"secretName": "big"}})))
    found = pairing.until_running("heavy")
    assert pairing.inside(found, "sh", "-c", "wc -c < /big/blob").strip() == "700000"
    pairing.delete_pods("heavy")


def test_a_deleted_node_comes_back_when_its_agent_restarts(pairing: Pairing) -> None:
    """[golden 27, 28] The last test of a pairing: its pods are gone with the node."""
    old = pairing.get("node", NODE)["metadata"]["uid"]
    pairing.kubectl("delete", "node", NODE)
    pairing.hosts.end_edgecore()
    pairing.hosts.start_edgecore()
    assert pairing.get("node", NODE)["metadata"]["uid"] != old
    pairing.apply(pod("fresh"))
    pairing.until_running("fresh")
    pairing.delete_pods("fresh")
