"""Gateways: Envoys at the edge of the mesh, by listeners of the Gateway API and by Istio's Gateways that choose them by labels."""
