"""Reads attributes the way the agent gets them back from the proxy."""

import msgspec

from nodeagent.ztunnel.protocol import Attributes, GivenBack


def given_back(attributes: Attributes) -> GivenBack:
    """The labels, and under `log` the access log's own fields."""
    return msgspec.json.decode(attributes, type=GivenBack)
