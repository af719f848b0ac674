"""The example for several replicas is a configuration that cloudcore takes."""

from pathlib import Path

from edgehive.api.config.cloudcore import CloudCore
from edgehive.kit.config import load

EXAMPLE = Path(__file__).parents[3] / "examples" / "three-replicas" / "cloudcore.yaml"


def test_the_replicas_advertise_the_balancer() -> None:
    config = load(EXAMPLE, CloudCore)
    hub, stream = config.modules.cloud_hub, config.modules.cloud_stream
    assert hub.advertise_address == [stream.advertise_address]
