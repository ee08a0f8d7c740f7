"""AuthorizationPolicy as Envoy's RBAC filters, for requests and for plain connections."""
