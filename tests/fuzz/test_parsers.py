"""Every parser of bytes that others send: it reads them or raises the error it documents, soon and in few words.

Three kinds of input each: rubbish, a good sample with damage, and JSON of any shape. In CI the examples are always the
same (profile "ci"); for a longer hunt see `tests/fuzz/conftest.py`.
"""

import base64
import ipaddress
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.config.edgecore import EdgeCore
from edgehive.beehive.message import Message
from edgehive.cloudcore import certificate_requests
from edgehive.cloudcore.cloudhub import authz, content_rules, dispatch, questions, signing
from edgehive.edgecore.edgehub import inbound, outbound
from edgehive.kit import config, http_request, tls
from edgehive.kit.config import ConfigError
from edgehive.kit.json_depth import depth_exceeds
from edgehive.kube import patch, selectors
from edgehive.kube.errors import ApiError
from edgehive.kube.server import bodies, protobuf, urls
from edgehive.wire import codec, frames, inventory, join, payloads, resource, tunnel
from edgehive.wire.link import JoinRefused, ProtocolError
from edgehive.wire.resource import Resource

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CA = tls.self_signed_ca("KubeEdge", NOW, timedelta(days=1000))
NODE = tls.issue(CA, common_name="system:node:n1", organizations=["system:nodes"], now=NOW, lifetime=timedelta(days=1))
CSR = tls.request(tls.new_key(), "system:node:n1", ["system:nodes"])


def csr_for(names: Sequence[str]) -> bytes:
    """A request for these DNS names and addresses, DER."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([general_name(it) for it in names]), critical=False)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def wrapped(der: bytes) -> bytes:
    """A request as PEM."""
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + text + b"-----END CERTIFICATE REQUEST-----\n"


NAMED_CSR = csr_for(["127.0.0.1", "::1"])
TOKEN = join.make_token(CA.certificate, CA.key, NOW + timedelta(hours=1))
CHALLENGE = join.make_challenge("n1", "nonce", CA.key, NOW)

#: No answer or error text is larger than this many times its input, and so much on top.
GROWTH, ALLOWANCE = 12, 4000
#: Of the processor's; the first example of a parser pays for its tables.
SECONDS = 3.0


@dataclass(frozen=True)
class Parser:
    """What reads the bytes, the errors it documents, and samples of what it is meant for."""

    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    samples: list[bytes]
    size: Callable[[Any], int] = field(default=lambda _: 0)


def text(data: bytes) -> str:
    """As aiohttp gives headers: any bytes."""
    return data.decode("utf-8", "surrogateescape")


def frame_of(data: bytes) -> bytes:
    found = frames.find(data, 0, codec.MAX_FRAME, masked=True)
    return frames.unmasked(data, found) if found is not None else b""


def request_head(data: bytes) -> http_request.Head | None:
    end = http_request.find_end(data)
    return http_request.parse_head(data[:end]) if end else None


def message(content: bytes, *, operation: str = "update", path: str = "default/pod/web") -> Message:
    """A message from an edge that passed the codec."""
    return Message.of(
        source="edged", group="meta", operation=operation, resource=path, timestamp=1, content=msgspec.Raw(content)
    )


def content_of_frame(read: Callable[[Message], object]) -> Callable[[bytes], object]:
    """Contents reach their readers through the codec only, so damage that it refuses is refused."""

    def run(data: bytes) -> object:
        frame = (
            b'{"header":{"msg_id":"m"},"route":{"operation":"update","resource":"default/pod/web"},"content":%s}' % data
        )
        return read(codec.decode(frame))

    return run


def judged(data: bytes) -> str:
    node, _, path = text(data).partition(" ")
    operation, _, path = path.partition(" ")
    asked = message(b"{}", operation=operation, path=path)
    return authz.malformed(asked) + authz.violation(node, asked, lambda _, name: {"mine": "n1"}.get(name))


def ruled(it: Message) -> str:
    said = ""
    for type, operation in (("pod", "insert"), ("node", "update"), ("nodepatch", "patch"), ("podpatch", "patch"),
                            ("event", "insert"), ("event", "patch"), ("lease", "insert"),
                            ("certificatesigningrequest", "insert")):  # fmt: skip
        path = Resource("default", type, "n1")
        said = max(
            said,
            content_rules.content_violation(
                "n1", path, it.with_route(operation=operation), lambda *_: None, lambda *_: None
            ),
            key=len,
        )
    return said


def signed(data: bytes) -> questions.Answer:
    return signing.answer_to(questions.SignRequest(CA, data, "n1", [2], NOW, timedelta(days=1)))


def proven(data: bytes) -> questions.Answer:
    return signing.answer_to(
        questions.JudgeProof(CA, data, "n1", b"text", data[-70:], NOW + timedelta(days=2), timedelta(days=9))
    )


def patched(apply: Callable[[Any, Any], Any]) -> Callable[[bytes], object]:
    original = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "list": [1, 2]},
    }

    def run(data: bytes) -> object:
        codec.check_text(data)
        return apply(original, msgspec.json.decode(data))

    return run


def strategic(original: Any, change: Any) -> object:
    if not isinstance(change, dict):
        raise TypeError("the server asks for an object")
    return patch.apply_strategic(original, change, "v1", "Pod")


def merged(original: Any, change: Any) -> object:
    if not isinstance(change, dict):
        raise TypeError("the server asks for an object")
    return patch.apply_merge(original, change)


def length(value: Any) -> int:
    return len(json.dumps(value, default=str))


FRAME = codec.encode(message(b'{"metadata":{"name":"web","uid":"u"},"spec":{}}'))
GO_FRAME = (
    b'{"Header":{"msg_ID":"m","timestamp":1,"x":null},"Route":{"Operation":"query"},"other":[1],"content":"e30="}'
)
PATCH = json.dumps({"metadata": {"uid": "u"}, "status": {"conditions": [{"type": "Ready"}]}}).encode()
EVENT = (
    b'{"involvedObject":{"kind":"Node","name":"n1"},"metadata":{"name":"e"},"event":{"involvedObject":{"kind":"Pod"}}}'
)
REPORT = b'[{"UID":"u","Name":"web","Status":{"phase":"Running"}}]'
ANSWER = b'{"Object":{"metadata":{}},"Err":{"ErrStatus":{"reason":"NotFound","code":404,"details":{"causes":[]}}}}'
JSON_PATCH = (
    b'[{"op":"add","path":"/spec/list/-","value":{"a":1}},{"op":"copy","from":"/spec","path":"/metada'
    b'ta/x"},{"op":"test","path":"/a~1b","value":1}]'
)
STRATEGIC = (
    b'{"spec":{"containers":[{"$patch":"delete","name":"c"},{"name":"d"}],"$setElementOrder/container'
    b's":[{"name":"d"}],"$retainKeys":["containers"]}}'
)
CONNECT = (
    b'{"MessID":1,"url":{"Scheme":"https","Host":"h","Path":"/exec/ns/p/c","RawQuery":"a=b"},"header"'
    b':{"A":["b"]},"method":"POST"}'
)
PROTOBUF = protobuf.MAGIC + bytes.fromhex("0a080a02763112034e6f6412250a1f0a026e311200")
YAML = b"""
apiVersion: cloudcore.config.kubeedge.io/v1alpha1
kind: CloudCore
modules:
  cloudHub: &a
    nodeLimit: 5
    dnsNames: [a, b]
  edgeController: {enable: true}
"""

PARSERS: dict[str, Parser] = {
    "hub frame": Parser(codec.decode, (ProtocolError,), [FRAME, GO_FRAME], lambda it: len(codec.encode(it))),
    "WebSocket frame of a client": Parser(
        lambda data: frame_of(data), (frames.BrokenFrame,), [frames.client_frame(frames.TEXT, FRAME)], len
    ),
    "head of a request": Parser(
        lambda data: request_head(data),
        (http_request.BadRequest,),
        [b"GET /p/n1/events HTTP/1.1\r\nHost: h\r\nnode_id: n1\r\nContent-Length: 7\r\n\r\nbody"],
    ),
    "depth": Parser(lambda data: depth_exceeds(data, 200), (), [b'{"a":[{"b":"\\"]"}]}']),
    "tunnel frame": Parser(tunnel.decode, (ProtocolError,), [tunnel.encode(300, 3, b"data"), tunnel.encode(1, 8)]),
    "tunnel connect": Parser(
        tunnel.decode_connect, (ProtocolError,), [CONNECT], lambda it: len(tunnel.encode_connect(it))
    ),
    "tunnel head": Parser(tunnel.decode_head, (ProtocolError,), [b'{"status":200,"content_type":"a/b"}']),
    "resource path": Parser(
        lambda data: Resource.parse(text(data), prefixed=data[:1] == b"n"),
        (ValueError,),
        [b"node/n1/default/pod/web", b"null/node/n1", b"default/rule-endpoint/a/b/c"],
        lambda it: len(str(it)),
    ),
    "cloud path": Parser(lambda data: resource.strip_node(text(data)), (), [b"node/n1/default/pod/web"]),
    "join token": Parser(lambda data: join.parse_token(text(data)), (JoinRefused,), [str(TOKEN).encode()]),
    "authorization header": Parser(
        lambda data: join.bearer_of(text(data)), (JoinRefused,), [b"Bearer " + TOKEN.bearer.encode()]
    ),
    "bearer": Parser(lambda data: join.verify_bearer(text(data), CA.key, NOW), (JoinRefused,), [TOKEN.bearer.encode()]),
    "key usages": Parser(lambda data: join.parse_extended_key_usages(text(data)), (JoinRefused,), [b"[1,2]"]),
    "challenge": Parser(
        lambda data: join.verify_challenge(text(data), "n1", CA.key, NOW), (JoinRefused,), [CHALLENGE.encode()]
    ),
    "certificate request": Parser(signed, (), [CSR], lambda it: len(it.fault)),
    "expired certificate": Parser(proven, (), [NODE.certificate], lambda it: len(it.fault)),
    "signing request of a node": Parser(
        lambda data: certificate_requests.is_request_of(data, "n1"),
        (),
        [b"-----BEGIN CERTIFICATE REQUEST-----\nMIIBADCB\n-----END CERTIFICATE REQUEST-----\n"],
    ),
    "addresses of a request": Parser(
        lambda data: certificate_requests.addresses(data), (ValueError,), [wrapped(CSR), wrapped(NAMED_CSR)], len
    ),
    "subject of a request": Parser(
        lambda data: certificate_requests._subject(data), (ValueError, IndexError), [CSR], length
    ),
    "node's message": Parser(judged, (), [b"n1 patch default/podpatch/mine", b"n1 query default/secret/a"], len),
    "node's content": Parser(
        content_of_frame(ruled), (ProtocolError,), [PATCH, EVENT, json.dumps(PATCH.decode()).encode()], len
    ),
    "pod reports": Parser(
        content_of_frame(payloads.read_pod_status_requests),
        (ProtocolError, msgspec.MsgspecError, UnicodeError),
        [REPORT],
    ),
    "delete options": Parser(
        content_of_frame(payloads.read_delete_options),
        (ProtocolError, msgspec.MsgspecError, UnicodeError),
        [b'{"gracePeriodSeconds":0,"preconditions":{"uid":"u"}}', b'"u"'],
    ),
    "reply": Parser(
        content_of_frame(payloads.read_reply),
        (ProtocolError, msgspec.MsgspecError, UnicodeError),
        [ANSWER, b'"OK"', b"{}"],
    ),
    "offers": Parser(content_of_frame(payloads.read_offers), (ProtocolError,), [b'{"offers":["a"]}', b'"ping"']),
    "inventory": Parser(
        content_of_frame(inventory.read), (ProtocolError, msgspec.MsgspecError), [b'[["default","pod","web","u","7"]]']
    ),
    "need of an ack": Parser(content_of_frame(payloads.needs_ack), (ProtocolError,), [PATCH, b'"OK"']),
    "object of a message": Parser(content_of_frame(dispatch.object_ref), (ProtocolError, ValueError), [PATCH]),
    "way in at the edge": Parser(
        content_of_frame(lambda it: inbound.destination(it, False)), (ProtocolError,), [PATCH]
    ),
    "fate at the edge": Parser(content_of_frame(outbound.fate), (ProtocolError,), [PATCH]),
    "label selector": Parser(
        lambda data: selectors.parse_labels(text(data)), (selectors.SelectorError,), [b"a in (b,c),!d,e notin (f),g>1"]
    ),
    "field selector": Parser(
        lambda data: selectors.parse_fields(text(data)),
        (selectors.SelectorError,),
        [b"metadata.name=a,spec.nodeName!=b\\,c"],
    ),
    "JSON patch": Parser(
        patched(patch.apply_json), (ProtocolError, msgspec.DecodeError, ApiError), [JSON_PATCH], length
    ),
    "merge patch": Parser(patched(merged), (ProtocolError, msgspec.DecodeError, ApiError, TypeError), [PATCH], length),
    "strategic patch": Parser(
        patched(strategic), (ProtocolError, msgspec.DecodeError, ApiError, TypeError), [STRATEGIC, PATCH], length
    ),
    "protobuf body": Parser(protobuf.decode_body, (ApiError,), [PROTOBUF], length),
    "API path": Parser(
        lambda data: urls.read(text(data)),
        (),
        [b"/apis/apps/v1/namespaces/default/deployments/web/status", b"/api/v1/watch/pods", b"/api/v1/nodes/n/proxy/x"],
    ),
    "API body in JSON": Parser(
        lambda data: bodies.decode(data, "application/json", "Pod"), (ApiError,), [PATCH], length
    ),
    "API body in YAML": Parser(
        lambda data: bodies.decode(data, "application/yaml", "Pod"),
        (ApiError,),
        [b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: &a [1, 2.5, null, 2026-01-01]\nstatus: *a\n"],
        length,
    ),
    "cloudcore.yaml": Parser(
        lambda data: config.parse(data.decode(errors="replace"), CloudCore), (ConfigError,), [YAML]
    ),
    "edgecore.yaml": Parser(
        lambda data: config.parse(data.decode(errors="replace"), EdgeCore),
        (ConfigError,),
        [b"modules:\n  edgeHub: {heartbeat: 15}\n"],
    ),
}


def demand(parser: Parser, data: bytes) -> None:
    """Read or refused as documented; in time; nothing grows."""
    began = time.process_time()
    bound = GROWTH * len(data) + ALLOWANCE
    try:
        result = parser.read(data)
    except parser.errors as error:
        assert len(str(error)) <= bound
    else:
        assert parser.size(result) <= bound
    assert time.process_time() - began < SECONDS


@st.composite
def damaged(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A sample in which some places were cut, doubled or overwritten."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 4))):
        at, cut = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        patch = draw(st.one_of(st.binary(max_size=8), st.sampled_from(PIECES), st.just(data[at : at + cut] * 3)))
        data = data[:at] + patch + data[at + cut :]
    return data


PIECES = [
    b"null",
    b"{}",
    b"[]",
    b'""',
    b"-1",
    b"1e999",
    b"9" * 40,
    b"\x00",
    b"\xff",
    b"\\ud800",
    b'":',
    b",,,",
    b"[" * 300,
    b'{"a":' * 300,
    b"/../",
    b"//",
    b"%2f",
    b"$patch",
    b"\r\n",
    b"&a *a",
    b"true",
    b".",
    b"\x80" * 12,
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
WORDS = """metadata spec status name uid labels op path from value $patch containers Object Err ErrStatus header route
    content MessID url event involvedObject kind $setElementOrder/containers $deleteFromPrimitiveList/list $retainKeys
    list modules cloudHub"""
KEYS = st.sampled_from(WORDS.split()) | st.text(max_size=6)
TREES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=4) | st.dictionaries(KEYS, below, max_size=5), max_leaves=24
)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=2048))
def test_rubbish(name: str, data: bytes) -> None:
    demand(PARSERS[name], data)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_good_samples_with_damage(name: str, data: st.DataObject) -> None:
    demand(PARSERS[name], data.draw(damaged(PARSERS[name].samples)))


@pytest.mark.parametrize("name", PARSERS)
@given(tree=TREES)
def test_json_of_any_shape(name: str, tree: object) -> None:
    demand(PARSERS[name], json.dumps(tree).encode())


@pytest.mark.parametrize("name", PARSERS)
def test_the_samples_themselves(name: str) -> None:
    for sample in PARSERS[name].samples:
        demand(PARSERS[name], sample)


#: Each value holds the one before: deep without a deep line.
CHAIN = b"a0: &a0 [1]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (number, number, number - 1) for number in range(1, 3000))


HARMLESS = [CHAIN, b"a: 2026-00-01", b"a: 2026-01-01T99:00:00Z", b"a: !!int x", b"a: " + b"9" * 9000, b"a: !!binary x"]


@pytest.mark.parametrize("name", [name for name in PARSERS if "yaml" in name.lower()])
@pytest.mark.parametrize("text", HARMLESS)
def test_yaml_that_looks_harmless(name: str, text: bytes) -> None:
    demand(PARSERS[name], text)


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("piece", [b"[", b'{"a":', b"{", b"- ", b"a: ", b"(", b"\x30\x80", b"\x0a\x7f", b"%", b"\\"])
def test_one_thing_a_hundred_thousand_times(name: str, piece: bytes) -> None:
    """What nests, where it may nest without end."""
    demand(PARSERS[name], piece * 100_000)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=64))
def test_a_tunnel_frame_comes_back_as_it_was(connection: int, type: int, data: bytes) -> None:
    assert tunnel.decode(tunnel.encode(connection, type, data)) == (connection, type, data)


@given(st.text(max_size=64), st.text(max_size=64), st.integers(-(2**53), 2**53), TREES)
def test_a_hub_frame_comes_back_as_it_was(id: str, path: str, timestamp: int, tree: object) -> None:
    try:
        sent = Message.of(source="s", group="g", operation="o", resource=path, content=tree, timestamp=timestamp, id=id)
        frame = codec.encode(sent)
    except (msgspec.MsgspecError, UnicodeError, OverflowError):
        return
    back = codec.decode(frame)
    assert (back.header, back.route) == (sent.header, sent.route)
    assert bytes(back.content) == bytes(sent.content)


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_a_request_is_one_node_s_or_nobody_s(node: str, other: str) -> None:
    """The small reader of subjects and the library agree on whose a request is."""
    try:
        csr = tls.request(tls.new_key(), f"system:node:{node}", ["system:nodes"])
    except ValueError:
        return
    assert certificate_requests.is_request_of(wrapped(csr), node)
    assert certificate_requests.is_request_of(wrapped(csr), other) == (node == other)


@given(st.lists(st.ip_addresses().map(str), max_size=4), st.sampled_from(["", "api.example.com"]))
def test_a_request_s_addresses_are_those_the_signer_will_name(addresses: list[str], host: str) -> None:
    """The small reader and the library agree, and a name that is no address is never passed over."""
    pem = wrapped(csr_for([*addresses, *([host] if host else [])]))
    if host:
        with pytest.raises(ValueError, match="no IP address"):
            certificate_requests.addresses(pem)
    else:
        assert [str(address) for address in certificate_requests.addresses(pem)] == addresses
