"""What went wrong when an edge dialled its cloud, in one sentence, and whether trying again can help.

For both connections an edge opens: the hub's link (`ws`) and the tunnel (`tunnel_ws`).
"""

import ssl

import aiohttp
from yarl import URL

from edgehive.wire.link import EndedUnanswered, JoinRefused, LinkClosed

#: aiohttp's client shows no body of a refused upgrade, so the sentence comes in a header too.
REFUSAL_HEADER = "Edgehive-Refusal"


#: OpenSSL's codes for a certificate that is not valid yet, and no longer.
_OUT_OF_DATE = (9, 10)


def date_mend(error: ssl.SSLCertVerificationError) -> str:
    """What to look at when a certificate is of another time than this machine thinks it is; else ""."""
    if error.verify_code not in _OUT_OF_DATE:
        return ""
    return "compare the dates of both machines and set the one that is wrong, or renew the server's certificate"


def dial_error(error: OSError | aiohttp.ClientError, target: URL) -> LinkClosed | JoinRefused:
    """Name what went wrong while dialling, and whether trying again can help."""
    where = f"{target.host}:{target.port}"
    cause: Exception = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        mend = date_mend(cause) or (
            "check that the CA file is this cloud's and that its server certificate names this address "
            "(cloudHub.advertiseAddress, dnsNames)"
        )
        return JoinRefused(f"the certificate of {where} does not verify: {cause.verify_message}; {mend}")
    if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
        return JoinRefused(
            f"{where} refuses this node's certificate ({cause.reason}); it may be expired or of another CA: "
            "remove the certificate files and join again with a token"
        )
    if isinstance(error, aiohttp.WSServerHandshakeError):
        why = error.headers.get(REFUSAL_HEADER, error.message) if error.headers else error.message
        text = f"{where} refuses the connection with status {error.status}: {why}"
        return JoinRefused(text) if error.status in (400, 401, 403) else LinkClosed(text)
    if isinstance(error, TimeoutError):
        return LinkClosed(f"{where} did not answer in time")
    if target.scheme == "wss" and isinstance(cause, (aiohttp.ServerDisconnectedError, ConnectionResetError)):
        # Many servers, and all under TLS 1.3, show a refused client certificate only as the end of the connection.
        return EndedUnanswered(
            f"{where} ended the connection without an answer; if it stays so, it refuses this node's certificate "
            "(expired or of another CA): remove the certificate files and join again with a token"
        )
    return LinkClosed(f"{where} cannot be reached: {getattr(cause, 'strerror', None) or cause or type(cause).__name__}")
