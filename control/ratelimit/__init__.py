"""The rate limit server: counts requests for all Envoys that ask it by Envoy's own protocol, in memory or in Redis.

Limits come from files in the form of Envoy's reference server, and for the mesh's RateLimits with each question. What decides is pure
(`config`, `asking`, `windows`); what talks is beside it.
"""
