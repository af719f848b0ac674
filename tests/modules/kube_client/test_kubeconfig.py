"""kubeconfig files and pod credentials: what is read, how files merge, and what is refused."""

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from edgehive.kube.kubeconfig import ClusterAccess, KubeconfigError, load

CLUSTER = {"server": "https://k.example:6443"}


def config(
    cluster: dict[str, Any] = CLUSTER, user: dict[str, Any] | None = None, name: str = "c", current: str | None = None
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": name if current is None else current,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"token": "t"} if user is None else user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "ns"}}],
    }


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_token_and_inline_ca(tmp_path: Path):
    data = config({**CLUSTER, "certificate-authority-data": b64(b"PEM"), "tls-server-name": "other"})
    assert load(write(tmp_path / "config", data)) == ClusterAccess(
        "https://k.example:6443", certificate_authority=b"PEM", tls_server_name="other", token="t", namespace="ns"
    )


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path):
    for name in ("ca", "crt", "key"):
        (tmp_path / name).write_text(f"the {name}")
    user = {"client-certificate": "crt", "client-key": "key", "tokenFile": "token", "as": "u", "as-groups": ["g"]}
    access = load(write(tmp_path / "config", config({**CLUSTER, "certificate-authority": "ca"}, user)))
    assert (access.certificate_authority, access.client_certificate, access.client_key) == (
        b"the ca",
        b"the crt",
        b"the key",
    )
    assert access.token_file == tmp_path / "token"
    assert (access.impersonate_user, access.impersonate_groups) == ("u", ("g",))


def test_inline_data_counts_before_a_file(tmp_path: Path):
    data = config({**CLUSTER, "certificate-authority": "absent", "certificate-authority-data": b64(b"inline")})
    assert load(write(tmp_path / "config", data)).certificate_authority == b"inline"


def test_several_files_merge_and_the_first_current_context_counts(tmp_path: Path):
    first = write(tmp_path / "a", config({"server": "https://a"}, name="one", current=""))
    second = write(tmp_path / "b", config({"server": "https://b"}, name="two"))
    third = write(tmp_path / "c", config({"server": "https://c"}, name="one"))
    environment = {"KUBECONFIG": f"{first}:{tmp_path / 'absent'}:{second}:{third}"}
    assert load(environment=environment).server == "https://b"
    assert load(environment=environment, context="one").server == "https://a"


def test_the_usual_place(tmp_path: Path):
    (tmp_path / ".kube").mkdir()
    write(tmp_path / ".kube" / "config", config())
    assert load(environment={"HOME": str(tmp_path)}).token == "t"


def test_a_pods_own_credentials(tmp_path: Path):
    for name, text in (("token", "t\n"), ("ca.crt", "PEM"), ("namespace", "ns")):
        (tmp_path / name).write_text(text)
    environment = {"HOME": "/nowhere", "KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert load(environment=environment, service_account=tmp_path) == ClusterAccess(
        "https://[fd00::1]:443", certificate_authority=b"PEM", token_file=tmp_path / "token", namespace="ns"
    )


def test_nothing_configured_says_what_to_do():
    with pytest.raises(KubeconfigError, match="set KUBECONFIG"):
        load(environment={"HOME": "/nowhere"})


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("{", "not valid YAML"),
        ("[]", "not a kubeconfig"),
        (config(current=""), "current-context"),
        (config(current="other"), "no context named 'other'"),
        (config({"server": "k.example"}), "is to be a URL"),
        (config({**CLUSTER, "insecure-skip-tls-verify": True}), "insecure-skip-tls-verify"),
        (config({**CLUSTER, "proxy-url": "http://p"}), "proxy-url"),
        (config({**CLUSTER, "certificate-authority-data": "!"}), "not base64"),
        (config({**CLUSTER, "certificate-authority": "absent"}), "cannot read .*absent"),
        (config(user={"exec": {"command": "aws"}}), "plug-in"),
        (config(user={"username": "u", "password": "p"}), "password"),
        (config(user={"client-certificate-data": "AAAA"}), "give both"),
        ({**config(), "clusters": None}, "no cluster named 'c'"),
        ({**config(), "clusters": "text"}, "not a kubeconfig"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, data: Any, complaint: str):
    with pytest.raises(KubeconfigError, match=complaint):
        load(write(tmp_path / "config", data))


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(KubeconfigError, match="absent"):
        load(tmp_path / "absent")
    with pytest.raises(KubeconfigError, match="none of the files"):
        load(environment={"KUBECONFIG": "/absent/one:/absent/two"})


def test_the_context_always_verifies(tmp_path: Path):
    authority = trustme.CA()
    client = authority.issue_cert("client.example")
    access = ClusterAccess(
        "https://k",
        certificate_authority=authority.cert_pem.bytes(),
        client_certificate=client.cert_chain_pems[0].bytes(),
        client_key=client.private_key_pem.bytes(),
    )
    context = access.ssl_context()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert ClusterAccess("http://k").ssl_context() is None


def test_unusable_certificates_are_named():
    with pytest.raises(KubeconfigError, match="cannot be used"):
        ClusterAccess("https://k", certificate_authority=b"nonsense").ssl_context()
