"""What holds for every test that needs no server."""

from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code: no example is ever judged by the time it took.
settings.register_profile("unit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")
