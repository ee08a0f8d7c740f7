"""What the agent tells about itself: reports as values, made from its live state, served as JSON on a private unix socket."""
