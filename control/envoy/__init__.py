"""Layer 7: what the mesh's model means to an Envoy, be it a waypoint or a gateway. Pure: neither waits nor talks."""
