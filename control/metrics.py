"""The controller's metrics: names and labels in one place."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one controller. No label takes a value that a caller chooses."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.certificates_granted = Counter("nodemesh_certificates_granted", "Certificates signed.", ["kind"], registry=self.registry)
        self.certificates_refused = Counter(
            "nodemesh_certificates_refused", "Certificate requests refused, by the check that failed.", ["check"], registry=self.registry
        )
        self.streams_refused = Counter(
            "nodemesh_discovery_streams_refused",
            "Discovery streams refused or ended, by the check that failed.",
            ["check"],
            registry=self.registry,
        )
        self.pushes = Counter("nodemesh_discovery_pushes", "Discovery responses sent.", ["type"], registry=self.registry)
        self.nacks = Counter("nodemesh_discovery_nacks", "Discovery responses that a client refused.", ["type"], registry=self.registry)
        self.source_lists = Counter(
            "nodemesh_source_lists", "Whole lists read from the Kubernetes API, by collection.", ["path"], registry=self.registry
        )
        self.source_failures = Counter(
            "nodemesh_source_failures",
            "Requests to the Kubernetes API that failed, by collection and HTTP status (0: no answer).",
            ["path", "status"],
            registry=self.registry,
        )
        self.machines = Gauge("nodemesh_connected_machines", "Virtual machines that attend here.", registry=self.registry)
        self.machines_refused = Gauge(
            "nodemesh_refused_machines", "Memberships of machines here that can have no WorkloadEntry.", registry=self.registry
        )
        self.leading = Gauge("nodemesh_leading", "1 if this controller is the one that writes into the cluster.", registry=self.registry)
        self._connected = Gauge("nodemesh_connected_agents", "Open discovery streams.", registry=self.registry)
        self._proxies = Gauge("nodemesh_connected_proxies", "Connected Envoys of waypoints and gateways.", registry=self.registry)
        self._refused_resources = Gauge(
            "nodemesh_refused_proxy_resources",
            "Resources that connected Envoys refuse now.",
            registry=self.registry,
        )
        self._untranslated = Gauge(
            "nodemesh_untranslated_proxy_resources", "Resources of connected Envoys that could not be made.", registry=self.registry
        )
        self._reload_failed = Gauge(
            "nodemesh_authority_reload_failed",
            "1 if the authority's files on disk are not usable and older ones are in force.",
            registry=self.registry,
        )
        self._issuer_end = Gauge(
            "nodemesh_authority_issuer_expiry_seconds", "When the issuing certificate ends, in Unix seconds.", registry=self.registry
        )

    def listed(self, path: str) -> None:
        """A whole list has come from the Kubernetes API."""
        self.source_lists.labels(path).inc()

    def failed(self, path: str, status: int) -> None:
        """A list or a watch of the Kubernetes API failed."""
        self.source_failures.labels(path, str(status)).inc()

    def observe(self, *, connected: Callable[[], float], reload_failed: Callable[[], float], issuer_end_s: Callable[[], float]) -> None:
        """Reads these three whenever metrics are asked for."""
        self._connected.set_function(connected)
        self._reload_failed.set_function(reload_failed)
        self._issuer_end.set_function(issuer_end_s)

    def observe_proxies(self, *, connected: Callable[[], float], refused: Callable[[], float], untranslated: Callable[[], float]) -> None:
        """Likewise of the Envoys."""
        self._proxies.set_function(connected)
        self._refused_resources.set_function(refused)
        self._untranslated.set_function(untranslated)

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)
