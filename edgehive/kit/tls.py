"""Keys and certificates: made, read and signed; P-256 throughout.

Bytes in and out are DER or PEM as the name says; private keys are SEC1 ("EC PRIVATE KEY"), as the Go halves
write them. Nothing here reads the clock: whoever signs says from when and how long. Processes that must stay
small import `kit.keypair` and `kit.ssl_contexts` instead.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgehive.kit.keypair import KeyPair

#: Go lets certificates begin at once; clocks of edges differ, so ours begin a little earlier.
BACKDATE = timedelta(minutes=5)

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH


def new_key() -> bytes:
    """A fresh P-256 key, SEC1 DER."""
    return _dump_key(ec.generate_private_key(ec.SECP256R1()))


def load_key(der: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a SEC1 or PKCS#8 DER key; raises ValueError when it is no EC key."""
    key = serialization.load_der_private_key(der, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is not an elliptic-curve key; P-256 is needed")
    return key


def sec1(der: bytes) -> bytes:
    """Any EC key in DER as SEC1 DER; raises ValueError."""
    return _dump_key(load_key(der))


def key_from_pem(pem: bytes) -> bytes:
    """PEM to SEC1 DER; raises ValueError."""
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is not an elliptic-curve key; P-256 is needed")
    return _dump_key(key)


def sign(key: bytes, text: bytes) -> bytes:
    """An ECDSA signature with SHA-256, DER."""
    return load_key(key).sign(text, ec.ECDSA(hashes.SHA256()))


def certificate_from_pem(pem: bytes) -> bytes:
    """The first certificate of a PEM file as DER; raises ValueError."""
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


def self_signed_ca(common_name: str, now: datetime, lifetime: timedelta, *, serial: int | None = None) -> KeyPair:
    """A certificate authority of our own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        _builder(name, name, key.public_key(), now, lifetime, serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([SERVER_AUTH, CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return KeyPair(_der(builder.sign(key, hashes.SHA256())), _dump_key(key))


def request(
    key: bytes,
    common_name: str,
    organizations: Sequence[str] = (),
    *,
    country: str = "",
    state: str = "",
    city: str = "",
) -> bytes:
    """A PKCS#10 certificate request, DER."""
    attributes = [(NameOID.COUNTRY_NAME, country)] if country else []
    attributes += [(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    places = ((NameOID.LOCALITY_NAME, city), (NameOID.STATE_OR_PROVINCE_NAME, state))
    attributes += [(oid, text) for oid, text in places if text]
    attributes.append((NameOID.COMMON_NAME, common_name))
    subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])
    signed = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(load_key(key), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


class Issuer:
    """Signs with one CA, whose certificate and key are read once."""

    def __init__(self, ca: KeyPair) -> None:
        self._key = load_key(ca.key)
        self._name = x509.load_der_x509_certificate(ca.certificate).subject
        self._identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())

    def issue(
        self,
        public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        *,
        common_name: str,
        organizations: Iterable[str] = (),
        names: Iterable[str] = (),
        usages: Sequence[x509.ObjectIdentifier] = (CLIENT_AUTH,),
        now: datetime,
        lifetime: timedelta,
    ) -> bytes:
        """A certificate, DER; `names` are DNS names and IP addresses."""
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        builder = (
            _builder(x509.Name(subject), self._name, public_key, now, lifetime, None)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
            .add_extension(self._identifier, critical=False)
        )
        alternatives = [alternative_name(name) for name in names if name]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return _der(builder.sign(self._key, hashes.SHA256()))


def issue(
    ca: KeyPair,
    *,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None,
    common_name: str,
    organizations: Iterable[str] = (),
    names: Iterable[str] = (),
    usages: Sequence[x509.ObjectIdentifier] = (CLIENT_AUTH,),
    now: datetime,
    lifetime: timedelta,
) -> KeyPair:
    """A certificate signed by `ca`. Without `public_key` a key is made too."""
    key = None if public_key is not None else ec.generate_private_key(ec.SECP256R1())
    public = public_key if key is None else key.public_key()
    assert public is not None
    certificate = Issuer(ca).issue(
        public,
        common_name=common_name,
        organizations=organizations,
        names=names,
        usages=usages,
        now=now,
        lifetime=lifetime,
    )
    return KeyPair(certificate, _dump_key(key) if key is not None else b"")


def alternative_name(name: str) -> x509.GeneralName:
    """An IP address where the text is one, else a DNS name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def subject_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> tuple[str, tuple[str, ...]]:
    """(common name, organizations) of a subject; "" and () where absent."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    organizations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return (str(names[0].value) if names else "", tuple(str(entry.value) for entry in organizations))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    now: datetime,
    lifetime: timedelta,
    serial: int | None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial if serial is not None else x509.random_serial_number() >> 97)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _dump_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
