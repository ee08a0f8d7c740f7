"""Istio's VirtualService in Envoy's terms: which rules hold at a place, and the routes that they make."""
