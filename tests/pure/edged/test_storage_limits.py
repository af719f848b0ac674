"""Who has written more than it may, and what is said of it."""

from typing import Any

import pytest

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.edgecore.edged.storage_limits import StorageUse, exceeded, has_limits

MIB = 1024 * 1024


def pod(*limits: str, size: str = "", medium: str = "") -> Pod:
    containers: list[dict[str, Any]] = [
        {"name": f"c{number}", "resources": {"limits": {"ephemeral-storage": limit} if limit else {}}}
        for number, limit in enumerate(limits or ("",))
    ]
    source = {"medium": medium} | ({"sizeLimit": size} if size else {})
    return Document.of({"spec": {"containers": containers, "volumes": [{"name": "v", "emptyDir": source}]}}).read(Pod)


@pytest.mark.parametrize(("wanted", "containers", "volume", "said"), [
    (pod(), {"c0": 10**12}, 10**12, ""),
    (pod(size="1Mi"), {}, MIB, ""),
    (pod(size="1Mi"), {}, MIB + 1, 'Usage of EmptyDir volume "v" exceeds the limit "1Mi". '),
    (pod(size="1Mi", medium="Memory"), {}, 0, ""),
    (pod("1Mi"), {"c0": MIB}, 0, ""),
    (pod("1Mi"), {"c0": MIB}, 1, "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
    (pod("1Mi", "3Mi"), {"c0": 2 * MIB}, 0, 'Container c0 exceeded its local ephemeral storage limit "1Mi". '),
    (pod("1Mi", "1Mi"), {"c1": 3 * MIB}, 0,
     "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "),
])  # fmt: skip
def test_limits(wanted: Pod, containers: dict[str, int], volume: int, said: str) -> None:
    assert exceeded(wanted, StorageUse(containers, {"v": volume})) == said


def test_files_are_counted_only_for_pods_that_have_limits() -> None:
    assert not has_limits(pod())
    assert not has_limits(pod(size="1Mi", medium="Memory"))
    assert has_limits(pod("", "1Mi"))
    assert has_limits(pod(size="1Mi"))
