"""The process beside a Gateway's Envoy: it holds the identity, hands Envoy its secrets and its configuration, and runs it.

The key is made here and stays here. Envoy asks over a unix socket: for secrets it gets what this process holds, for configuration it
is connected through to the controller, under the identity.
"""
