"""How a site's API server reaches kubelets of nodes elsewhere: over TLS, as itself, and trusting the cloud's CA.

A cloudcore that joins such nodes keeps its CA in the cluster and answers for them at its stream port; the site trusts
that CA as soon as it is there.
"""

import logging
import ssl

from edgehive.api.core import Secret
from edgehive.api.registry import SECRETS
from edgehive.edgesite.pki import Pki
from edgehive.kit.ssl_contexts import client_context
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client
from edgehive.kube.informer import Informer

log = logging.getLogger("edgehive.edgesite")

NAMESPACE, NAME, KEY = "kubeedge", "casecret", "cadata"


def kubelet_context(identity: Pki) -> ssl.SSLContext:
    """The API server's own certificate for kubelets; their addresses and names are checked."""
    folder = identity.folder
    return client_context(identity.authority_file, certificate=folder / "admin.crt", key=folder / "admin.key")


async def trust_cloud(client: Client, context: ssl.SSLContext) -> None:
    """Trust whatever CA the cluster's cloudcore has, now and later; never returns."""
    informer = Informer(client, SECRETS, NAMESPACE, field_selector=f"metadata.name={NAME}")
    running = spawn(informer.run(), name="the cloud's CA: informer")
    try:
        async for change in informer.changes():
            authority = (change.document.read(Secret).data or {}).get(KEY)
            if change.new is None or not authority:
                continue
            try:
                context.load_verify_locations(cadata=authority)
            except ssl.SSLError as error:
                log.warning("kubelets elsewhere are not trusted: Secret %s/%s: %s", NAMESPACE, NAME, error)
    finally:
        await cancel_and_join(running)
