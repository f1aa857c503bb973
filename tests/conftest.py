"""Settings that have to be made before anything heavy is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ANONYMIZED_TELEMETRY"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Three OpenMP runtimes whose threads would spin against one another on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
