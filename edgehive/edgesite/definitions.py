"""KubeEdge's own kinds as CustomResourceDefinitions, for a site's API server. Pure.

Those cloudcore defines itself where it finds none, and the kinds of rules. Only what both sides of the wire agree on is
typed. Definitions that are already in a site's database stay as they are, so newer ones can be applied over these.

Go: build/crds/{devices,router,reliablesyncs}
"""

from edgehive.api.definition import definition
from edgehive.api.registry import RULE_ENDPOINTS, RULES
from edgehive.api.schema_parts import NUMBER, TEXT, TEXTS, Json, array, one_of, struct
from edgehive.cloudcore.crds import definitions


def kubeedge_definitions() -> tuple[Json, ...]:
    """Every kind of KubeEdge a site serves."""
    return (*definitions().values(), definition(RULES, _rule()), definition(RULE_ENDPOINTS, _rule_endpoint()))


def _rule() -> Json:
    required = ("source", "sourceResource", "target", "targetResource")
    spec = struct(required, source=TEXT, sourceResource=TEXTS, target=TEXT, targetResource=TEXTS)
    return {"spec": spec, "status": struct(successMessages=NUMBER, failMessages=NUMBER, errors=array(TEXT))}


def _rule_endpoint() -> Json:
    kind = one_of("rest", "eventbus", "servicebus")
    return {"spec": struct(("ruleEndpointType",), ruleEndpointType=kind, properties=TEXTS)}
