"""RateLimit as Envoy's filters: local ones count themselves, global ones ask the rate limit server."""
