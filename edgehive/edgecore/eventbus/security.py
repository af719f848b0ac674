"""The TLS context for a broker: it is verified, and sees this node's certificate where there is one.

Go: edge/pkg/eventbus/common/util (TLS)
"""

import ssl
from pathlib import Path

from edgehive.api.config.edgecore import EventBusTls
from edgehive.kit.ssl_contexts import client_context


def context_of(files: EventBusTls) -> ssl.SSLContext:
    """Without `enable` the machine's authorities count. Raises OSError naming the files."""
    if not files.enable:
        return ssl.create_default_context()
    certificate = Path(files.tls_mqtt_cert_file)
    key = Path(files.tls_mqtt_private_key_file)
    try:
        return client_context(
            Path(files.tls_mqtt_ca_file), certificate=certificate if certificate.exists() else None, key=key
        )
    except OSError as error:
        raise OSError(
            f"modules.eventBus.eventBusTLS: {files.tls_mqtt_ca_file}, {certificate} or {key} cannot be used: {error}"
        ) from error
