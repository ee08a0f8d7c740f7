"""The agent's side of delta xDS: a state machine, and the thin edge that gives it a stream."""

import os

# gRPC reads this when it is imported. The agent never forks; with the support on, gRPC stops its threads around forks that do not happen.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
# Its own log says what an orderly end of a connection looks like inside; what matters comes back as errors.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
