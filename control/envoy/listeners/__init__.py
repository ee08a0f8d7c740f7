"""Listeners: where traffic comes into an Envoy, and which filter chain takes it."""
