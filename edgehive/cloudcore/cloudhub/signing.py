"""The process that computes with keys for cloudhub: makes, reads, judges and signs certificates.

`signer` starts it when there is something to do and ends it afterwards. It reads questions from its standard input
and writes their answers to its standard output, in order, until the input ends. What strangers send (requests,
old certificates) is parsed here and not in the process that holds every node's session.

Go: cloud/pkg/cloudhub/servers/httpserver/{ca,signcert}.go, pkg/security/certs
"""

import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache, singledispatch
from typing import BinaryIO

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

from edgehive.cloudcore.cloudhub import questions
from edgehive.cloudcore.cloudhub.questions import LENGTH_BYTES, MAX_FRAME, Answer, Question
from edgehive.kit import tls
from edgehive.kit.keypair import KeyPair
from edgehive.wire import join
from edgehive.wire.link import JoinRefused


def answer_to(question: Question) -> Answer:
    """The answer; what is wrong with the question becomes a fault in it."""
    try:
        return _answer(question)
    except JoinRefused as refused:
        return Answer(fault=str(refused), refused=True)
    except Exception as error:  # what strangers send must not end the process that others wait for
        return Answer(fault=str(error) or type(error).__name__)


@singledispatch
def _answer(question: Question) -> Answer:
    raise TypeError(f"{type(question).__name__} is no question")


@_answer.register
def _(question: questions.NewAuthority) -> Answer:
    return _of(tls.self_signed_ca(question.common_name, question.now, question.lifetime, serial=question.serial))


@_answer.register
def _(question: questions.NewServer) -> Answer:
    name = question.common_name
    pair = tls.issue(
        question.authority,
        common_name=name,
        organizations=(name,),
        names=question.names,
        usages=(tls.SERVER_AUTH, *((tls.CLIENT_AUTH,) if question.client_too else ())),
        now=question.now,
        lifetime=question.lifetime,
    )
    return _of(pair)


@_answer.register
def _(question: questions.ReadPem) -> Answer:
    return _checked(tls.certificate_from_pem(question.certificate), tls.key_from_pem(question.key))


@_answer.register
def _(question: questions.ReadPair) -> Answer:
    return _checked(question.pair.certificate, tls.sec1(question.pair.key))


@_answer.register
def _(question: questions.JudgeServer) -> Answer:
    _checked(question.server.certificate, question.server.key)
    return Answer(fault=_server_flaw(question.server, question.authority, question.names, question.now))


@_answer.register
def _(question: questions.SignRequest) -> Answer:
    request = x509.load_der_x509_csr(question.request)
    if not request.is_signature_valid:
        raise ValueError("the certificate request is not signed by the key it asks for")
    common_name, organizations = tls.subject_of(request)
    join.verify_subject(common_name, organizations, question.node)
    public_key = request.public_key()
    if not isinstance(public_key, EllipticCurvePublicKey):
        raise ValueError("the certificate request is not for an elliptic-curve key; make a P-256 key")
    certificate = _issuer(question.authority).issue(
        public_key,
        common_name=common_name,
        organizations=organizations,
        names=_alternative_names(request),
        usages=[x509.ObjectIdentifier(join.EXTENDED_KEY_USAGE_OIDS[usage]) for usage in question.usages],
        now=question.now,
        lifetime=question.lifetime,
    )
    return Answer(certificate=certificate)


@_answer.register
def _(question: questions.JudgeProof) -> Answer:
    certificate = x509.load_der_x509_certificate(question.certificate)
    if not _issued_by(certificate, question.authority):
        raise JoinRefused("the expired certificate was not issued by this cloud")
    join.verify_subject(*tls.subject_of(certificate), question.node)
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if tls.CLIENT_AUTH not in usages:
        raise JoinRefused("the expired certificate was not one for clients")
    if question.now > certificate.not_valid_after_utc + question.grace:
        raise JoinRefused(
            f"the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, more than "
            f"{question.grace.days} days ago (cloudHub.expiredCertificateGracePeriod)"
        )
    public_key = certificate.public_key()
    if not isinstance(public_key, EllipticCurvePublicKey):
        raise JoinRefused("the expired certificate is not for an elliptic-curve key")
    try:
        public_key.verify(question.signature, question.signed, ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise JoinRefused("the proof is not signed by the key of the expired certificate") from None
    return Answer()


@lru_cache(maxsize=2)
def _issuer(authority: KeyPair) -> tls.Issuer:
    return tls.Issuer(authority)


def _of(pair: KeyPair) -> Answer:
    return Answer(certificate=pair.certificate, key=pair.key)


def _checked(certificate: bytes, key: bytes) -> Answer:
    if x509.load_der_x509_certificate(certificate).public_key() != tls.load_key(key).public_key():
        raise ValueError("the certificate and its private key do not belong together")
    return Answer(certificate=certificate, key=key)


def _issued_by(certificate: x509.Certificate, authority: KeyPair) -> bool:
    try:
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(authority.certificate))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _server_flaw(server: KeyPair, authority: KeyPair, names: Sequence[str], now: datetime) -> str:
    certificate = x509.load_der_x509_certificate(server.certificate)
    if not _issued_by(certificate, authority):
        return "is not signed by the CA"
    if certificate.not_valid_after_utc <= now:
        return "has expired"
    try:
        present = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        present = set()
    missing = [name for name in names if tls.alternative_name(name) not in present]
    return f"is not for {', '.join(missing)}" if missing else ""


def _alternative_names(request: x509.CertificateSigningRequest) -> list[str]:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    ]


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until the source ends."""
    decoder = msgspec.msgpack.Decoder(Question)
    while len(length := source.read(LENGTH_BYTES)) == LENGTH_BYTES:
        size = int.from_bytes(length, "big")
        if size > MAX_FRAME:
            raise ValueError(f"a question of {size} bytes")
        sink.write(questions.frame(answer_to(decoder.decode(source.read(size)))))
        sink.flush()


if __name__ == "__main__":
    # An interrupt at the keyboard reaches the whole group; cloudcore ends us when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
