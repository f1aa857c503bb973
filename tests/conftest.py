"""Settings that have to be made before anything heavy is imported."""

import os

from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ANONYMIZED_TELEMETRY"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from langchain_ralmspec.machine import wait_briefly

# OpenMP runtimes whose threads would spin against one another on two cores.
wait_briefly()

# Machines are shared: no example, nor drawing it, has to be done by some time.
settings.register_profile(
    "unhurried",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("unhurried")
