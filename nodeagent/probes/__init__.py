"""Probes of the kubelet, which has no identity: how this node knows them, and what is let through where it can't."""
