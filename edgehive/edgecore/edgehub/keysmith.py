"""Makes the node's key and certificate request, reads the answer and signs, in a process of its own that ends at once.

For `identity`: an agent lives for months and joins once, and cryptography would cost it 10 MiB all that time. Keys
pass through pipes, never through arguments or files. Blocking: call it from a thread.
"""

import base64
import json
import subprocess
import sys
from typing import Any

from edgehive.wire.link import JoinRefused

SECONDS = 30.0


def new_request(node: str) -> tuple[str, bytes]:
    """A fresh key (PEM) and the certificate request (DER) for it."""
    answer = _ask({"node": node})
    return answer["key"], base64.b64decode(answer["request"])


def check_certificate(der: bytes, key: str, node: str) -> None:
    """Raises JoinRefused when the answer is no certificate for this node and key."""
    answer = _ask({"node": node, "key": key, "certificate": base64.b64encode(der).decode()})
    if answer["fault"]:
        raise JoinRefused(answer["fault"])


def sign(text: bytes, key: str) -> bytes:
    """The key's signature (ECDSA with SHA-256) on a text: proof that this node holds the key (PEM)."""
    return base64.b64decode(_ask({"sign": base64.b64encode(text).decode(), "key": key})["signature"])


def _ask(question: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "edgehive.edgecore.edgehub.keysmith"],
        input=json.dumps(question).encode(),
        stdout=subprocess.PIPE,
        timeout=SECONDS,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# In the process of its own


def answer(question: dict[str, str]) -> dict[str, str]:
    if "sign" in question:
        return {"signature": base64.b64encode(_signature(base64.b64decode(question["sign"]), question["key"])).decode()}
    if "certificate" in question:
        return {"fault": _fault(base64.b64decode(question["certificate"]), question["key"], question["node"])}
    return _made(question["node"])


def _signature(text: bytes, key: str) -> bytes:
    from edgehive.kit import tls

    return tls.sign(tls.key_from_pem(key.encode()), text)


def _made(node: str) -> dict[str, str]:
    from edgehive.kit import tls
    from edgehive.kit.keypair import key_pem
    from edgehive.wire import join

    key = tls.new_key()
    request = tls.request(
        key, join.node_user(node), [join.NODES_GROUP], country="CN", state="Zhejiang", city="Hangzhou"
    )
    return {"key": key_pem(key).decode(), "request": base64.b64encode(request).decode()}


def _fault(der: bytes, key: str, node: str) -> str:
    from cryptography import x509

    from edgehive.kit import tls
    from edgehive.wire.join import node_user

    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        return f"the cloud answered with something that is no certificate: {error}"
    name, _ = tls.subject_of(certificate)
    if (
        name == node_user(node)
        and certificate.public_key() == tls.load_key(tls.key_from_pem(key.encode())).public_key()
    ):
        return ""
    return f"the cloud signed a certificate for {name!r} that is not the one node {node!r} asked for"


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
