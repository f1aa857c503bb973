"""Distance on one machine: a relay that makes a server answer as if far away."""

from __future__ import annotations

from pathlib import Path

from langchain_ralmspec.bench.servers.child import Child


class Relay(Child):
    """A port of this machine that leads to another one of it, ``latency`` away.

    Everything is delayed by ``latency`` seconds each way, so a round trip takes twice
    that. Chunks are under way together, as on a long cable. It leads nowhere else, for
    others could use it to get there.

    Raises:
        StoreError: the relay did not start.
    """

    def __init__(self, port: int, latency: float) -> None:
        program = Path(__file__).with_name("relay_process.py")
        super().__init__(
            f"the relay to port {port}", ["-I", str(program), str(port), str(latency)]
        )
