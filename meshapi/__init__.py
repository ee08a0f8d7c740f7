"""What both sides of the mesh speak: protobuf messages, SPIFFE ids, the models of workloads, services and policies.

Imports neither `control` nor `nodeagent`.
"""
