import os

from hypothesis import HealthCheck, settings

# no limits on time: a busy machine is no failure
LENIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("local", **LENIENT)
settings.register_profile("ci", derandomize=True, **LENIENT)
settings.load_profile("ci" if os.environ.get("CI") else "local")
