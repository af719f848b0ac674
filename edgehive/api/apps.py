"""Workload lenses (Deployment, ReplicaSet, DaemonSet, Job). Data only; controllers read through them.

Templates stay plain dictionaries: a controller copies them whole into pods and compares them, it never
interprets them. Selectors do too; `kube.selectors.labels_from_object` reads them.
"""

from typing import Any

import msgspec

from edgehive.api.core import IntOrString, Lens
from edgehive.api.meta import Condition, ObjectMeta


class RollingUpdate(Lens, frozen=True):
    max_surge: IntOrString | None = None
    max_unavailable: IntOrString | None = None
    partition: int | None = None


class UpdateStrategy(Lens, frozen=True):
    type: str = "RollingUpdate"
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(Lens, frozen=True):
    replicas: int | None = 1
    selector: dict[str, Any] | None = None
    template: dict[str, Any] = msgspec.field(default_factory=dict)
    strategy: UpdateStrategy = msgspec.field(default_factory=UpdateStrategy)
    min_ready_seconds: int | None = 0
    revision_history_limit: int | None = 10
    paused: bool | None = False
    progress_deadline_seconds: int | None = 600


class DeploymentStatus(Lens, frozen=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    collision_count: int | None = None
    conditions: list[Condition] | None = None


class Deployment(Lens, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: DeploymentSpec = msgspec.field(default_factory=DeploymentSpec)
    status: DeploymentStatus = msgspec.field(default_factory=DeploymentStatus)


class ReplicaSetSpec(Lens, frozen=True):
    replicas: int | None = 1
    selector: dict[str, Any] | None = None
    template: dict[str, Any] = msgspec.field(default_factory=dict)
    min_ready_seconds: int | None = 0


class ReplicaSetStatus(Lens, frozen=True):
    observed_generation: int = 0
    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    conditions: list[Condition] | None = None


class ReplicaSet(Lens, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: ReplicaSetSpec = msgspec.field(default_factory=ReplicaSetSpec)
    status: ReplicaSetStatus = msgspec.field(default_factory=ReplicaSetStatus)


class DaemonSetSpec(Lens, frozen=True):
    selector: dict[str, Any] | None = None
    template: dict[str, Any] = msgspec.field(default_factory=dict)
    update_strategy: UpdateStrategy = msgspec.field(default_factory=UpdateStrategy)
    min_ready_seconds: int | None = 0
    revision_history_limit: int | None = 10


class DaemonSet(Lens, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: DaemonSetSpec = msgspec.field(default_factory=DaemonSetSpec)


class JobSpec(Lens, frozen=True):
    parallelism: int | None = 1
    completions: int | None = None
    backoff_limit: int | None = 6
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int | None = None
    completion_mode: str | None = "NonIndexed"
    suspend: bool | None = False
    selector: dict[str, Any] | None = None
    template: dict[str, Any] = msgspec.field(default_factory=dict)


class JobStatus(Lens, frozen=True):
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    start_time: str | None = None
    completion_time: str | None = None
    conditions: list[Condition] | None = None


class Job(Lens, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: JobSpec = msgspec.field(default_factory=JobSpec)
    status: JobStatus = msgspec.field(default_factory=JobStatus)
