"""The site's keys: made once, renewed in time, never replaced where others rest on them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509

from edgehive.edgesite import pki

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ["localhost", "127.0.0.1"]


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def test_keys_are_private_and_stay_the_same(tmp_path: Path) -> None:
    first = pki.prepare(tmp_path / "pki", NOW, NAMES)
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    assert {path.stat().st_mode & 0o777 for path in first.folder.iterdir()} == {0o600}
    assert first.folder.stat().st_mode & 0o777 == 0o700
    again = pki.prepare(tmp_path / "pki", NOW + timedelta(days=30), NAMES)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == before


def test_server_and_admin_are_renewed_in_the_second_half_of_their_life_and_the_authority_is_not(tmp_path: Path) -> None:
    first = pki.prepare(tmp_path, NOW, NAMES)
    old = certificate(tmp_path, "server").serial_number
    later = pki.prepare(tmp_path, NOW + timedelta(days=200), NAMES)
    assert certificate(tmp_path, "server").serial_number != old
    assert later.authority == first.authority
    assert later.service_account_key == first.service_account_key


def test_a_new_name_renews_the_server_certificate(tmp_path: Path) -> None:
    pki.prepare(tmp_path, NOW, NAMES)
    pki.prepare(tmp_path, NOW, [*NAMES, "10.0.0.1"])
    names = certificate(tmp_path, "server").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == {*NAMES, "10.0.0.1"}


def test_a_broken_certificate_is_made_anew(tmp_path: Path) -> None:
    pki.prepare(tmp_path, NOW, NAMES)
    (tmp_path / "server.crt").write_text("rubbish")
    pki.prepare(tmp_path, NOW, NAMES)
    certificate(tmp_path, "server")


def test_the_kubeconfig_makes_its_bearer_administrator(tmp_path: Path) -> None:
    identity = pki.prepare(tmp_path, NOW, NAMES)
    config = yaml.safe_load(pki.kubeconfig(identity, "https://127.0.0.1:6443"))
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
    admin = certificate(tmp_path, "admin")
    admin.verify_directly_issued_by(certificate(tmp_path, "ca"))
    assert {str(item.value) for item in admin.subject} == {"admin", "system:masters"}
