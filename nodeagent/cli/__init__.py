"""The command `nodeagent`: runs the agent, and shows what the running one says. Heavy imports wait for the command that needs them."""
