"""The node agent: which workloads run here, how they are captured, who they are, where their connections go and who may connect to them.

It decides; it never copies an application's bytes (that is the proxy's work, `nodeagent/ztunnel/proxy`).
"""
