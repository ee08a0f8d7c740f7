"""Talking to the Kubernetes API: where it is and who we are there, single requests, and answers that go on for minutes."""
