"""`router` with an engine process that replays its answers: no model computes beside the gateway.

Everything else is as it is served: the same command line, HTTP, and the same messages from the
engine's process. Takes what `router` takes: `python -m benchmarks.replay_gateway serve --port ...`
"""

from router.cli import main
from router.engine import worker

if __name__ == "__main__":
    worker.CHILD_MODULE = "benchmarks.replay_child"
    main(prog_name="router")
