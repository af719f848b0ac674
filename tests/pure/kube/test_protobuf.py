"""Kubernetes protobuf bodies become the JSON a Go server would see; anything else is a bad request."""

import contextlib
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehive.kube.errors import BadRequest
from edgehive.kube.server.protobuf import decode_body, go_duration


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + field(1, field(1, api_version) + field(2, kind)) + field(2, raw) + field(3, "") + field(4, "")


def test_a_configmap_as_kubectl_sends_it() -> None:
    meta = field(1, "c1") + field(2, "") + field(3, "corpus") + field(7, 0) + field(8, b"")
    raw = field(1, meta) + field(2, field(1, "a") + field(2, "b")) + field(3, field(1, "bin") + field(2, b"\xff"))
    assert decode_body(envelope("v1", "ConfigMap", raw)) == (
        "v1",
        "ConfigMap",
        {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"name": "c1", "namespace": "corpus"},
            "data": {"a": "b"},
            "binaryData": {"bin": "/w=="},
        },
    )


def test_pointers_inlined_types_and_special_types() -> None:
    port = field(3, 8080)
    probe = field(1, field(2, field(2, field(1, 1) + field(3, "http"))))  # httpGet.port: "http"
    resources = field(1, field(1, "cpu") + field(2, field(1, "500m")))
    container = field(1, "c") + field(2, "i") + field(6, port) + field(8, resources) + field(10, probe)
    volume = field(1, "v") + field(2, field(2, b""))
    spec = field(1, volume) + field(2, container) + field(4, 0) + field(25, -5)
    meta = field(1, "p") + field(9, field(1, 1_700_000_000))
    _, _, pod = decode_body(envelope("v1", "Pod", field(1, meta) + field(2, spec)))
    assert pod["metadata"] == {"name": "p", "deletionTimestamp": "2023-11-14T22:13:20Z"}
    assert pod["spec"]["terminationGracePeriodSeconds"] == 0, "a pointer to zero is not an absent field"
    assert pod["spec"]["priority"] == -5
    assert pod["spec"]["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert pod["spec"]["containers"][0] == {
        "name": "c",
        "image": "i",
        "ports": [{"containerPort": 8080}],
        "resources": {"limits": {"cpu": "500m"}},
        "livenessProbe": {"httpGet": {"port": "http"}},
    }


def test_leases_keep_microseconds_and_embedded_json_is_opened() -> None:
    spec = field(1, "me") + field(2, 40) + field(4, field(1, 1_700_000_000) + field(2, 123_456_000))
    assert decode_body(envelope("coordination.k8s.io/v1", "Lease", field(2, spec)))[2]["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 40,
        "renewTime": "2023-11-14T22:13:20.123456Z",
    }
    revision = field(2, field(1, b'{"spec":{"x":1}}')) + field(3, 7)
    assert decode_body(envelope("apps/v1", "ControllerRevision", revision))[2]["data"] == {"spec": {"x": 1}}


def test_token_review_extra_is_a_map_of_lists() -> None:
    user = field(1, "u") + field(4, field(1, "scopes") + field(2, field(1, "a") + field(1, "b")))
    body = envelope("authentication.k8s.io/v1", "TokenReview", field(3, field(2, user)))
    assert decode_body(body)[2]["status"]["user"]["extra"] == {"scopes": ["a", "b"]}


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0s"), (1_500_000_000, "1.5s"), (300_000_000, "300ms"), (3_600_000_000_000, "1h0m0s"), (-61 * 10**9, "-1m1s"),
     (90_500_000_000, "1m30.5s"), (1500, "1.5µs")],
)  # fmt: skip
def test_durations_read_as_in_go(nanoseconds: int, text: str) -> None:
    assert go_duration(nanoseconds) == text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "does not start"),
        (b"k8s\x00\x0a\xff", "cut short"),
        (envelope("v1", "Nothing", b""), 'no kind "Nothing"'),
        (envelope("v1", "Pod", b"\x0b"), "wire type 3"),
        (envelope("v1", "Pod", field(1, 7)), "number stands"),
        (envelope("v1", "Pod", field(1, field(1, b"\xff"))), "UTF-8"),
        (envelope("v1", "Pod", field(1, field(9, field(1, 1 << 62)))), "years"),
        (envelope("apps/v1", "ControllerRevision", field(2, field(1, b"{"))), "not JSON"),
        (envelope("v1", "Pod", b"\x00\x01"), "number 0"),
        (envelope("v1", "Pod", b"\x08" + b"\xff" * 20), "too long"),
        (envelope("v1", "Pod", b"\x0d\x01"), "cut short"),
    ],
)
def test_hostile_bodies_get_one_sentence(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        decode_body(body)


def test_endless_nesting_is_refused() -> None:
    raw = b"{}"
    for _ in range(100):
        raw = envelope("apps/v1", "ControllerRevision", field(2, field(1, raw)))
    with pytest.raises(BadRequest, match="nest deeper"):
        decode_body(raw)


seed = envelope(
    "v1",
    "Pod",
    field(1, field(1, "p") + field(9, field(1, 5) + field(2, 7)))
    + field(2, field(2, field(1, "c") + field(6, field(3, 80)) + field(8, field(1, field(1, "cpu") + field(2, b"")))))
    + struct.pack("<BI", 0x3D, 7),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(seed) - 1), st.integers(0, 255)), max_size=6), st.binary(max_size=8))
def test_no_bytes_crash_the_decoder(changes: list[tuple[int, int]], tail: bytes) -> None:
    body = bytearray(seed)
    for position, value in changes:
        body[position] = value
    with contextlib.suppress(BadRequest):
        decode_body(bytes(body) + tail)
