"""How a probe of the kubelet would go, in steps."""

from ipaddress import ip_address

from meshapi.workload import IPAddress, Workload
from nodeagent.policy.addresses import AddressError, parse_socket_address, plain
from nodeagent.policy.authorize import Undecided, VerdictQuestion, authorize
from nodeagent.resolve.explanation import Explanation, Outcome, Step
from nodeagent.resolve.target import pod_uid
from nodeagent.snapshot.view import Missing, View
from nodeagent.ztunnel.protocol import Via

KUBELET = "kubelet"
"""As the source of what is to be explained."""


def explain_probe(view: View, destination: str, known: str, *, cluster: str, is_exempt: bool) -> Explanation:
    """Explains a probe of `namespace/pod:port` or `ip:port` on this node. `known`: how probes are known here, in words.

    `is_exempt`: the kernel lets the kubelet's connections pass, so that nothing decides about them.
    """
    steps: tuple[Step, ...] = (Step("source", f"the kubelet of this node: {known}"),)
    found = _find(view, destination, cluster)
    if isinstance(found, Step):
        return Explanation(Outcome.UNKNOWN, (*steps, found))
    workload, address, port = found
    if view.local_identity(workload.uid) is None:
        return Explanation(Outcome.UNKNOWN, (*steps, Step("destination", f"{workload.uid} does not run on this node")))
    steps += (Step("destination", f"{workload.uid} at {address} port {port}, in plaintext"),)
    if is_exempt:
        return Explanation(Outcome.ALLOWED, (*steps, Step("verdict", "none is needed: it goes to the application, not through the proxy")))
    source = next((one for one in view.probes(workload.uid).sources if one.version == address.version), _anyone(address))
    verdict = authorize(view, VerdictQuestion(workload.uid, address, port, Via.PLAINTEXT, source, None))
    if isinstance(verdict, Undecided):
        return Explanation(Outcome.UNKNOWN, (*steps, Step("verdict", f"{verdict.waiting_for} is not known")))
    words = f"{workload.uid} {'allows' if verdict.allow else 'denies'} it: {verdict.reason}"
    return Explanation(Outcome.ALLOWED if verdict.allow else Outcome.DENIED, (*steps, Step("verdict", words)))


def _find(view: View, destination: str, cluster: str) -> tuple[Workload, IPAddress, int] | Step:
    """Or why it can't be found."""
    try:
        address, port = parse_socket_address(destination)
    except AddressError:
        name, _, digits = destination.rpartition(":")
        if not (digits.isascii() and digits.isdigit() and 0 < int(digits) <= 65535):
            return Step("destination", f"{destination}: say namespace/pod:port, or address:port")
        pod = view.workload(pod_uid(cluster, name))
        if isinstance(pod, Missing) or not pod.addresses:
            return Step("destination", f"{name} is no workload that this agent knows")
        return pod, plain(pod.addresses[0]), int(digits)
    at = view.workload_at("", address)
    return (at, plain(address), port) if isinstance(at, Workload) else Step("destination", f"{address} is no workload's address")


def _anyone(address: IPAddress) -> IPAddress:
    return ip_address("0.0.0.0" if address.version == 4 else "::")
