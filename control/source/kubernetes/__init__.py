"""The Kubernetes API as the source of configuration: every kind is listed once and then watched, without ever losing or inventing one."""
