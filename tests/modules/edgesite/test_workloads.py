"""Deployments, ReplicaSets, DaemonSets and Jobs as a user sees them, with pretend nodes."""

import asyncio
from typing import Any

import pytest
from site_rig import Json, Site, running_site

from edgehive.api.registry import (
    CONTROLLER_REVISIONS,
    DAEMON_SETS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    PODS,
    REPLICA_SETS,
)
from edgehive.kube.client import PatchType

pytestmark = pytest.mark.looptime


def template(image: str = "localhost/busybox:1", **spec: Any) -> Json:
    return {
        "metadata": {"labels": {"app": "hello"}},
        "spec": {"containers": [{"name": "main", "image": image}], **spec},
    }


def deployment(replicas: int = 2, **spec: Any) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "hello"}},
            "template": template(),
            **spec,
        },
    }


async def rolled_out(site: Site, image: str = "localhost/busybox:1") -> Json | None:
    body = await site.get(DEPLOYMENTS, "hello")
    status, wanted = body.get("status", {}), body["spec"]["replicas"]
    pods = await site.items(PODS)
    images = {pod["spec"]["containers"][0]["image"] for pod in pods}
    counts = [status.get(name) for name in ("replicas", "updatedReplicas", "availableReplicas", "readyReplicas")]
    done = counts == [wanted] * 4 and status.get("observedGeneration") == body["metadata"]["generation"]
    return body if done and images == {image} and len(pods) == wanted else None


def condition(body: Json, type: str) -> Json:
    return next(item for item in body["status"]["conditions"] if item["type"] == type)


async def set_image(site: Site, image: str) -> None:
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}}
    await site.client.patch(DEPLOYMENTS, "hello", patch, "default", type=PatchType.STRATEGIC)


async def test_a_deployment_comes_up() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(DEPLOYMENTS, deployment(), "default")
        body = await site.until(lambda: rolled_out(site))
        assert condition(body, "Available")["reason"] == "MinimumReplicasAvailable"
        progressing = await site.until(lambda: _progressed(site))
        assert progressing["message"].startswith('ReplicaSet "hello-')
        (replica_set,) = await site.items(REPLICA_SETS)
        hash = replica_set["metadata"]["labels"]["pod-template-hash"]
        assert replica_set["metadata"]["name"] == f"hello-{hash}"
        assert replica_set["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
        assert body["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
        for pod in await site.items(PODS):
            assert pod["metadata"]["ownerReferences"][0]["uid"] == replica_set["metadata"]["uid"]
            assert pod["metadata"]["labels"]["pod-template-hash"] == hash
        messages = {event["message"] for event in await site.items(EVENTS)}
        assert f"Scaled up replica set hello-{hash} from 0 to 2" in messages
        assert any(message.startswith("Successfully assigned default/hello-") for message in messages)


async def _progressed(site: Site) -> Json | None:
    found = condition(await site.get(DEPLOYMENTS, "hello"), "Progressing")
    return found if found["reason"] == "NewReplicaSetAvailable" else None


async def test_a_deployment_is_bound_and_running_within_a_tenth_of_a_second() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await asyncio.sleep(1)
        start = asyncio.get_running_loop().time()
        await site.client.create(DEPLOYMENTS, deployment(), "default")
        await site.until(lambda: rolled_out(site))
        assert asyncio.get_running_loop().time() - start < 0.2


async def test_rolling_update_never_goes_below_what_is_allowed_and_rolls_back() -> None:
    async with running_site() as site:
        await site.add_node("one")
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        await site.client.create(DEPLOYMENTS, deployment(4, strategy=strategy), "default")
        await site.until(lambda: rolled_out(site))
        lowest, highest = [4], [4]

        async def measure() -> Json | None:
            pods = await site.items(PODS)
            alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
            ready = [
                pod
                for pod in alive
                if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
            ]
            lowest.append(len(ready))
            highest.append(len(alive))
            return await rolled_out(site, "localhost/busybox:2")

        await set_image(site, "localhost/busybox:2")
        await site.until(measure)
        assert min(lowest) >= 4
        assert max(highest) <= 5
        await set_image(site, "localhost/busybox:1")
        body = await site.until(lambda: rolled_out(site))
        assert body["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
        sets = await site.items(REPLICA_SETS)
        assert len(sets) == 2
        newest = next(item for item in sets if item["spec"]["replicas"])
        assert newest["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"


async def test_a_broken_update_keeps_the_old_pods_and_tells_when_the_deadline_passes() -> None:
    async with running_site() as site:
        await site.add_node("one")
        site.refuse.add("broken")
        await site.client.create(DEPLOYMENTS, deployment(4, progressDeadlineSeconds=60), "default")
        await site.until(lambda: rolled_out(site))
        await set_image(site, "broken")
        await asyncio.sleep(30)
        body = await site.get(DEPLOYMENTS, "hello")
        assert body["status"]["readyReplicas"] == 3
        assert condition(body, "Progressing")["status"] == "True"
        await asyncio.sleep(60)
        body = await site.get(DEPLOYMENTS, "hello")
        assert condition(body, "Progressing")["reason"] == "ProgressDeadlineExceeded"
        await set_image(site, "localhost/busybox:1")
        await site.until(lambda: rolled_out(site))


async def test_recreate_starts_the_new_pods_after_the_last_old_one_is_gone() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(DEPLOYMENTS, deployment(2, strategy={"type": "Recreate"}), "default")
        await site.until(lambda: rolled_out(site))
        mixed = False

        async def measure() -> Json | None:
            nonlocal mixed
            mixed |= len({pod["spec"]["containers"][0]["image"] for pod in await site.items(PODS)}) > 1
            return await rolled_out(site, "localhost/busybox:2")

        await set_image(site, "localhost/busybox:2")
        await site.until(measure)
        assert not mixed


async def test_scaling_a_paused_deployment_works_and_its_template_waits() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(DEPLOYMENTS, deployment(), "default")
        await site.until(lambda: rolled_out(site))
        await site.client.patch(DEPLOYMENTS, "hello", {"spec": {"paused": True, "replicas": 3}}, "default")
        await set_image(site, "localhost/busybox:2")
        await asyncio.sleep(5)
        pods = await site.items(PODS)
        assert [pod["spec"]["containers"][0]["image"] for pod in pods] == ["localhost/busybox:1"] * 3
        body = await site.get(DEPLOYMENTS, "hello")
        assert condition(body, "Progressing")["reason"] == "DeploymentPaused"
        await site.client.patch(DEPLOYMENTS, "hello", {"spec": {"paused": False}}, "default")
        await site.until(lambda: rolled_out(site, "localhost/busybox:2"))


async def test_history_is_kept_up_to_its_limit() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(DEPLOYMENTS, deployment(1, revisionHistoryLimit=2), "default")
        for number in range(1, 6):
            image = f"localhost/busybox:{number}"
            await set_image(site, image)
            await site.until(lambda image=image: rolled_out(site, image))
        await site.until(lambda: _has(site, REPLICA_SETS, 3))


async def _has(site: Site, resource: Any, count: int) -> bool:
    return len(await site.items(resource)) == count


async def test_a_deleted_pod_is_replaced_and_a_deleted_deployment_takes_its_pods_along() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(DEPLOYMENTS, deployment(), "default")
        await site.until(lambda: rolled_out(site))
        victim = (await site.items(PODS))[0]["metadata"]
        await site.client.delete(PODS, victim["name"], "default")
        await site.until(lambda: _gone(site, victim["uid"]))
        await site.until(lambda: rolled_out(site))
        await site.client.delete(DEPLOYMENTS, "hello", "default", propagation="Background")
        await site.until(lambda: _has(site, PODS, 0))
        assert await site.items(REPLICA_SETS) == []


async def _gone(site: Site, uid: str) -> bool:
    return uid not in {pod["metadata"]["uid"] for pod in await site.items(PODS)}


async def test_no_pod_is_created_twice_however_many_there_are() -> None:
    async with running_site() as site:
        await site.add_node("one", cpu="64", pods="500")
        await site.client.create(DEPLOYMENTS, deployment(60), "default")
        await site.until(lambda: rolled_out(site))
        events = await site.items(EVENTS)
        created = [e for e in events if e["reason"] == "SuccessfulCreate"]
        assert sum(e.get("count") or 1 for e in created) <= 60
        assert len(await site.items(PODS)) == 60


async def test_a_replica_set_adopts_orphans_and_releases_what_no_longer_matches() -> None:
    async with running_site() as site:
        await site.add_node("one")
        pod = {"metadata": {"name": "orphan", "labels": {"app": "hello"}}, "spec": template()["spec"]}
        await site.client.create(PODS, pod, "default")
        replica_set = {
            "metadata": {"name": "hello"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "hello"}}, "template": template()},
        }
        await site.client.create(REPLICA_SETS, replica_set, "default")
        await site.until(lambda: _ready_replicas(site, 2))
        orphan = await site.get(PODS, "orphan")
        assert orphan["metadata"]["ownerReferences"][0]["name"] == "hello"
        await site.client.patch(PODS, "orphan", {"metadata": {"labels": {"app": "other"}}}, "default")
        await site.until(lambda: _has(site, PODS, 3))
        await site.until(lambda: _released(site))


async def _ready_replicas(site: Site, count: int) -> bool:
    return (await site.get(REPLICA_SETS, "hello")).get("status", {}).get("readyReplicas") == count


async def _released(site: Site) -> bool:
    return not (await site.get(PODS, "orphan"))["metadata"].get("ownerReferences")


async def test_a_daemon_set_has_one_pod_on_every_node_it_fits() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.add_node("two", labels={"disk": "ssd"})
        body = {
            "metadata": {"name": "agent"},
            "spec": {"selector": {"matchLabels": {"app": "hello"}}, "template": template()},
        }
        await site.client.create(DAEMON_SETS, body, "default")
        await site.until(lambda: _daemon(site, 2))
        await site.add_node("three")
        await site.until(lambda: _daemon(site, 3))
        nodes = sorted(pod["spec"]["nodeName"] for pod in await site.items(PODS))
        assert nodes == ["one", "three", "two"]
        patch = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}}
        await site.client.patch(DAEMON_SETS, "agent", patch, "default", type=PatchType.STRATEGIC)
        await site.until(lambda: _daemon(site, 1))
        (pod,) = await site.items(PODS)
        assert pod["spec"]["nodeName"] == "two"
        assert len(await site.items(CONTROLLER_REVISIONS)) == 2


async def _daemon(site: Site, count: int) -> bool:
    body = await site.get(DAEMON_SETS, "agent")
    status = body.get("status", {})
    fresh = status.get("observedGeneration") == body["metadata"]["generation"]
    numbers = ("desiredNumberScheduled", "numberReady", "updatedNumberScheduled")
    return fresh and [status.get(name) for name in numbers] == [count] * 3 and await _has(site, PODS, count)


def job(**spec: Any) -> Json:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work", "namespace": "default"},
        "spec": {"template": template(restartPolicy="Never"), **spec},
    }


async def _finish(site: Site, phase: str) -> None:
    for pod in await site.items(PODS):
        if pod["status"].get("phase") == "Running":
            await site.set_phase("default", pod["metadata"]["name"], phase)


async def _work(site: Site, phase: str, type: str) -> Json | None:
    await _finish(site, phase)
    body = await site.get(JOBS, "work")
    ended = any(c["type"] == type and c["status"] == "True" for c in body.get("status", {}).get("conditions", []))
    return body if ended else None


async def test_a_job_counts_every_success_once() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(JOBS, job(completions=5, parallelism=2), "default")
        body = await site.until(lambda: _work(site, "Succeeded", "Complete"))
        assert body["status"]["succeeded"] == 5
        assert "active" not in body["status"]
        assert body["status"]["completionTime"]
        assert len(await site.items(PODS)) == 5
        await site.until(lambda: _untracked(site))


async def _untracked(site: Site) -> bool:
    return not any(pod["metadata"].get("finalizers") for pod in await site.items(PODS))


async def test_a_job_gives_up_after_its_backoff_limit_with_growing_pauses() -> None:
    async with running_site() as site:
        await site.add_node("one")
        start = asyncio.get_running_loop().time()
        await site.client.create(JOBS, job(backoffLimit=2), "default")
        body = await site.until(lambda: _work(site, "Failed", "Failed"), timeout=120)
        assert condition(body, "Failed")["reason"] == "BackoffLimitExceeded"
        assert body["status"]["failed"] == 3
        assert 30 <= asyncio.get_running_loop().time() - start < 45


async def test_a_job_past_its_deadline_is_stopped() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(JOBS, job(activeDeadlineSeconds=20), "default")
        await asyncio.sleep(25)
        body = await site.get(JOBS, "work")
        assert condition(body, "Failed")["reason"] == "DeadlineExceeded"
        await site.until(lambda: _has(site, PODS, 0))


async def test_an_indexed_job_runs_every_index_once() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(JOBS, job(completions=4, parallelism=2, completionMode="Indexed"), "default")
        body = await site.until(lambda: _work(site, "Succeeded", "Complete"))
        assert body["status"]["completedIndexes"] == "0-3"
        indexes = [
            pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for pod in await site.items(PODS)
        ]
        assert sorted(indexes) == ["0", "1", "2", "3"]


async def test_a_finished_job_is_removed_after_its_time_to_live() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(JOBS, job(ttlSecondsAfterFinished=30), "default")
        await site.until(lambda: _work(site, "Succeeded", "Complete"))
        await site.until(lambda: _has(site, JOBS, 0), timeout=40)
        await site.until(lambda: _has(site, PODS, 0))
