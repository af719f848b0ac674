"""The profile for a long hunt: `nice pytest tests/fuzz --hypothesis-profile=hunt --timeout=0`."""

from hypothesis import HealthCheck, settings

settings.register_profile("hunt", max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
