"""Enrolment: makes what is captured here equal to what the runtime says runs here, and the proxy's workloads equal to both."""
