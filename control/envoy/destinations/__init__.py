"""Istio's DestinationRule in Envoy's terms: how the endpoints of a service are called at a proxy."""
