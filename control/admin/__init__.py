"""The operator's door to a running controller: HTTP on a unix socket that only its owner may open."""

DEFAULT_SOCKET = "/run/nodemesh-controller/admin.sock"
