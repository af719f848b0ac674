"""The arithmetic of a rollout: how many pods the old and the new template may have next. Pure.

Go: pkg/controller/deployment/util/deployment_util.go, rolling.go
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

HASH_LABEL = "pod-template-hash"
#: Kubernetes' alphabet for generated names: no vowels, no look-alikes.
_SAFE = "bcdfghjklmnpqrstvwxz2456789"
_canonical = msgspec.json.Encoder(order="sorted")


def template_hash(template: Mapping[str, Any], collisions: int = 0) -> str:
    """A short name for a template, the same after every restart; `collisions` makes another one."""
    data = _canonical.encode(template) + (collisions.to_bytes(8, "little") if collisions else b"")
    return "".join(_SAFE[ord(digit) % len(_SAFE)] for digit in str(zlib.crc32(data)))


def without_hash(template: Mapping[str, Any]) -> dict[str, Any]:
    """The template as its Deployment has it: without the hash label, null and empty metadata alike."""
    metadata = dict(template.get("metadata") or {})
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH_LABEL}
    metadata = {**metadata, "labels": labels}
    metadata = {key: value for key, value in metadata.items() if value}
    return {**template, "metadata": metadata}


def same_template(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return without_hash(one) == without_hash(other)


def resolve(value: int | str | None, total: int, *, up: bool) -> int:
    """A number or a percentage of `total`, rounded up (surge) or down (unavailable)."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    percent = int(value.removesuffix("%")) * total / 100
    return math.ceil(percent) if up else math.floor(percent)


@dataclass(frozen=True)
class Limits:
    """How far a rolling update may go above and below the wanted number."""

    surge: int
    unavailable: int

    @classmethod
    def of(cls, wanted: int, max_surge: int | str | None, max_unavailable: int | str | None) -> "Limits":
        surge = resolve(max_surge, wanted, up=True)
        unavailable = resolve(max_unavailable, wanted, up=False)
        # Both zero would stand still for ever; Kubernetes then lets one pod be missing.
        return cls(surge, 1 if surge == 0 and unavailable == 0 else unavailable)


@dataclass(frozen=True)
class Generation:
    """One ReplicaSet as the arithmetic sees it."""

    replicas: int
    available: int = 0
    created: str = ""
    wanted_before: int = 0


def new_size(wanted: int, limits: Limits, new: int, total: int) -> int:
    """How many pods the new template may have now."""
    if new >= wanted:
        return wanted
    return min(wanted, new + max(0, wanted + limits.surge - total))


def old_sizes(wanted: int, limits: Limits, new: Generation, old: Sequence[Generation]) -> list[int]:
    """How many pods each old template keeps: first the unhealthy go, then as many as availability allows."""
    sizes = [item.replicas for item in old]
    minimum = wanted - limits.unavailable
    spare = sum(sizes) + new.replicas - minimum - (new.replicas - new.available)
    if spare <= 0:
        return sizes
    left = spare
    for index, item in enumerate(old):
        broken = min(left, item.replicas - min(item.available, item.replicas))
        sizes[index] -= broken
        left -= broken
    healthy = sum(min(item.available, size) for item, size in zip(old, sizes, strict=True)) + new.available
    removable = healthy - minimum
    for index, size in enumerate(sizes):
        gone = min(size, max(0, removable))
        sizes[index] -= gone
        removable -= gone
    return sizes


def proportional(wanted: int, limits: Limits, sets: Sequence[Generation]) -> list[int]:
    """Sizes when the wanted number changes in the middle of a rollout: each set in its proportion.

    The first in line takes what rounding leaves over: the largest set when growing, the smallest when shrinking.
    """
    total = sum(item.replicas for item in sets)
    allowed = wanted + limits.surge if wanted > 0 else 0
    missing = allowed - total
    sizes = [item.replicas for item in sets]
    if not missing or not total:
        return sizes
    order = sorted(range(len(sets)), key=lambda i: (sets[i].replicas, sets[i].created), reverse=missing > 0)
    left = missing
    for index in order:
        item = sets[index]
        before = item.wanted_before or wanted
        share = round(item.replicas * allowed / before) - item.replicas if before else 0
        share = max(left, min(share, 0)) if missing < 0 else min(left, max(share, 0))
        sizes[index] += share
        left -= share
    for index in order:
        change = max(left, -sizes[index])
        sizes[index] += change
        left -= change
    return sizes
