"""Edged on a real containerd: what a user's pod needs, and what survives a restart of the agent."""

import asyncio

import pytest
from pod_site import Site, container, first, named, running, until

from edgehive.api.registry import CONFIG_MAPS, PODS, SECRETS
from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgecore.edged.volumes.local import mount_points

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(180)]


async def test_a_pod_runs_and_says_so(site: Site) -> None:
    async with site.edged():
        await site.create("plain")
        status = await site.status("plain", running)
    assert status["podIP"] == status["podIPs"][0]["ip"] != status["hostIP"]
    assert first(status)["containerID"].startswith("containerd://")
    assert first(status)["restartCount"] == 0


async def test_env_and_volumes_come_from_configmaps_and_secrets_and_follow_them(site: Site) -> None:
    await site.api.create(CONFIG_MAPS, named("ConfigMap", "settings", data={"color": "blue"}), "default")
    await site.api.create(SECRETS, named("Secret", "key", stringData={"pin": "1234"}), "default")
    pod = container(
        "echo $COLOR $PIN $NAME; while true; do cat /etc/settings/color; echo; sleep 0.1; done",
        env=[
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        envFrom=[{"prefix": "", "secretRef": {"name": "key"}}],
        volumeMounts=[{"name": "settings", "mountPath": "/etc/settings"}],
    )
    pod["env"].append({"name": "PIN", "valueFrom": {"secretKeyRef": {"name": "key", "key": "pin"}}})
    async with site.edged():
        await site.create(
            "configured", containers=[pod], volumes=[{"name": "settings", "configMap": {"name": "settings"}}]
        )
        await site.status("configured", running)
        await until(lambda: "blue 1234 configured" in site.log("configured"))
        await site.api.patch(CONFIG_MAPS, "settings", {"data": {"color": "green"}}, "default")
        await until(lambda: site.log("configured").endswith("green"))


async def test_an_empty_dir_in_memory_is_a_tmpfs_of_its_size_and_leaves_with_the_pod(site: Site) -> None:
    mounts = [{"name": "fast", "mountPath": "/fast"}, {"name": "small", "mountPath": "/small"}]
    script = (
        "df -k /fast /small; echo kept > /fast/file; head -c 2000000 /dev/zero > /small/file || echo full; sleep 60"
    )
    pod = container(script, volumeMounts=mounts, resources={"limits": {"memory": "64Mi"}})
    async with site.edged():
        volumes = [
            {"name": "fast", "emptyDir": {"medium": "Memory"}},
            {"name": "small", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ]
        await site.create("memory", containers=[pod], volumes=volumes, terminationGracePeriodSeconds=1)
        await site.status("memory", running)
        await until(lambda: "full" in site.log("memory"))
        assert [line.split()[:2] for line in site.log("memory").splitlines() if line.startswith("tmpfs")] == [
            ["tmpfs", "65536"],
            ["tmpfs", "1024"],
        ]
        uid = (await site.api.get(PODS, "memory", "default")).meta.uid
        folder = site.root / "pods" / uid / "volumes" / "kubernetes.io~empty-dir"
        assert (folder / "fast" / "file").read_text() == "kept\n"
        assert {str(folder / "fast"), str(folder / "small")} <= mount_points()
        await site.api.delete(PODS, "memory", "default")
        await site.gone("memory")
        await until(lambda: not folder.exists())
        assert not any(point.startswith(str(folder)) for point in mount_points())


async def test_init_containers_run_in_order_before_the_pod(site: Site) -> None:
    mounts = [{"name": "work", "mountPath": "/scratch"}]
    inits = [
        {**container("echo one >> /scratch/log", volumeMounts=mounts), "name": "first"},
        {**container("echo two >> /scratch/log", volumeMounts=mounts), "name": "second"},
    ]
    main = container("cat /scratch/log", volumeMounts=mounts)
    async with site.edged():
        await site.create("steps", initContainers=inits, containers=[main], volumes=[{"name": "work", "emptyDir": {}}],
                          restartPolicy="Never")  # fmt: skip
        await site.status("steps", lambda status: status.get("phase") == "Succeeded")
        assert site.log("steps") == "one\ntwo"


async def test_a_failing_container_is_restarted_then_waits_in_back_off(site: Site) -> None:
    async with site.edged():
        await site.create("crash", containers=[container("exit 3")])
        status = await site.status(
            "crash",
            lambda status: first(status).get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff",
        )
    assert first(status)["restartCount"] == 1
    assert first(status)["lastState"]["terminated"]["exitCode"] == 3
    assert first(status)["lastState"]["terminated"]["reason"] == "Error"


async def test_never_and_on_failure_end_as_kubernetes_says(site: Site) -> None:
    async with site.edged():
        await site.create("done", containers=[container("exit 0")], restartPolicy="OnFailure")
        await site.create("lost", containers=[container("exit 7")], restartPolicy="Never")
        await site.status("done", lambda status: status.get("phase") == "Succeeded")
        lost = await site.status("lost", lambda status: status.get("phase") == "Failed")
    assert first(lost)["state"]["terminated"]["exitCode"] == 7


async def test_deletion_runs_the_hook_gives_grace_and_leaves_nothing(site: Site, cri: CriClient) -> None:
    mounts = [{"name": "out", "mountPath": "/out"}]
    out = site.root / "out"
    pod = container(
        "trap 'echo stopped >> /out/log; exit 0' TERM; while true; do sleep 0.1; done",
        lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /out/log"]}}},
        volumeMounts=mounts,
    )
    async with site.edged():
        volume = {"name": "out", "hostPath": {"path": str(out), "type": "DirectoryOrCreate"}}
        await site.create("polite", containers=[pod], terminationGracePeriodSeconds=10, volumes=[volume])
        uid = (await site.api.get(PODS, "polite", "default")).meta.uid
        await site.status("polite", running)
        await site.api.delete(PODS, "polite", "default")
        await site.gone("polite")
        assert (out / "log").read_text() == "hook\nstopped\n"
        await until(lambda: not (site.root / "pods" / uid).exists())
        async with asyncio.timeout(10):
            while await cri.list_pod_sandboxes(labels={"io.kubernetes.pod.uid": uid}):
                await asyncio.sleep(0.05)


async def test_host_network_pods_have_the_nodes_address(site: Site) -> None:
    async with site.edged():
        await site.create("host", hostNetwork=True)
        status = await site.status("host", running)
    assert status["podIP"] == status["hostIP"]


async def test_a_new_edged_adopts_what_runs(site: Site, cri: CriClient) -> None:
    async with site.edged():
        for number in range(3):
            await site.create(f"kept-{number}")
        before = {n: first(await site.status(f"kept-{n}", running))["containerID"] for n in range(3)}
    async with site.edged():
        await asyncio.sleep(2)
        after = {n: first(await site.status(f"kept-{n}", running)) for n in range(3)}
        assert {n: item["containerID"] for n, item in after.items()} == before
        assert {item["restartCount"] for item in after.values()} == {0}
        assert len(await cri.list_containers()) == 3


async def test_pods_come_back_when_every_container_is_gone(site: Site, cri: CriClient) -> None:
    async with site.edged():
        await site.create("phoenix")
        before = first(await site.status("phoenix", running))["containerID"]
    for sandbox in await cri.list_pod_sandboxes():
        await cri.stop_pod_sandbox(sandbox.id)
        await cri.remove_pod_sandbox(sandbox.id)
    async with site.edged():
        again = await site.status(
            "phoenix", lambda status: running(status) and first(status).get("containerID") != before
        )
    assert first(again)["restartCount"] == 1


async def test_a_missing_configmap_is_named_and_its_arrival_starts_the_pod(site: Site) -> None:
    variable = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "x"}}}
    async with site.edged():
        await site.create("waits", containers=[container(env=[variable])])
        status = await site.status(
            "waits",
            lambda status: (
                first(status).get("state", {}).get("waiting", {}).get("reason") == "CreateContainerConfigError"
            ),
        )
        assert first(status)["state"]["waiting"]["message"] == 'configmap "late" not found'
        await site.api.create(CONFIG_MAPS, named("ConfigMap", "late", data={"x": "1"}), "default")
        await site.status("waits", running, seconds=8)


async def test_a_readiness_probe_decides_ready(site: Site) -> None:
    probe = {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1}
    async with site.edged():
        await site.create("probed", containers=[container("sleep 2; touch /tmp/ready; sleep 60", readinessProbe=probe)])
        status = await site.status("probed", lambda status: status.get("phase") == "Running")
        assert first(status)["ready"] is False
        await site.status("probed", running)
