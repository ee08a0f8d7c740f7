"""The node proxy seen from the agent: its supervisor, the decision protocol and the server that answers the proxy's questions."""
