"""What the agent tells about traffic and about itself: metrics, the access log, readiness."""
