"""What older Istio documents say, in the words of today's. Pure; never wider than what was meant: what has no new form is an error."""
