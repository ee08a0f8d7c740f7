"""`meshctl`, the operator's command: runs the controller, and asks and tells a running one over its admin socket."""
