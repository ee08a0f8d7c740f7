"""What the agent keeps on the node, private to its user, so that a restart without the controller serves at once."""
