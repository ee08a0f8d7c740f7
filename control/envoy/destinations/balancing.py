"""How an endpoint is chosen: balancers, hashing, warm-up, and the settings of locality that clusters hold."""

from typing import Any, Final

from control.envoy.messages import Message, new
from control.envoy.parts import seconds
from control.kinds.destination import ConsistentHash, LoadBalancer, SimpleBalancer, Warmup
from control.validation.durations import seconds as duration

RING: Final = 1024
_POLICIES: Final = {
    SimpleBalancer.UNSPECIFIED: "LEAST_REQUEST",
    SimpleBalancer.LEAST_REQUEST: "LEAST_REQUEST",
    SimpleBalancer.RANDOM: "RANDOM",
    SimpleBalancer.ROUND_ROBIN: "ROUND_ROBIN",
    # Of a service whose endpoints are known, the address that was dialled is none of them.
    SimpleBalancer.PASSTHROUGH: "LEAST_REQUEST",
}


def balance(cluster: Message, balancer: LoadBalancer) -> None:
    """Sets a cluster's balancer, unless its endpoint is what was dialled."""
    if cluster.lb_policy == _number("CLUSTER_PROVIDED"):
        return
    if balancer.consistent_hash is not None:
        _hash(cluster, balancer.consistent_hash)
    else:
        cluster.lb_policy = _number(_POLICIES[balancer.simple])
    if balancer.warmup is not None:
        _warm_up(cluster, balancer.warmup)
    setting = balancer.locality_lb_setting
    if setting is not None and setting.enabled is not False and setting.distribute:
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()


def _number(name: str) -> int:
    return int(new("envoy.config.cluster.v3.Cluster").LbPolicy.Value(name))


def _hash(cluster: Message, by: ConsistentHash) -> None:
    if by.maglev is not None:
        cluster.lb_policy = _number("MAGLEV")
        if by.maglev.table_size:
            cluster.maglev_lb_config.table_size.value = by.maglev.table_size
        return
    cluster.lb_policy = _number("RING_HASH")
    stated = by.ring_hash.minimum_ring_size if by.ring_hash is not None else 0
    cluster.ring_hash_lb_config.minimum_ring_size.value = stated or RING


def _warm_up(cluster: Message, warmup: Warmup) -> None:
    fields: dict[str, Any] = {"slow_start_window": seconds(duration(warmup.duration))}
    if warmup.aggression is not None:
        fields["aggression"] = {"default_value": warmup.aggression, "runtime_key": f"nodemesh.warmup.{cluster.name}"}
    if warmup.minimum_percent is not None:
        fields["min_weight_percent"] = {"value": warmup.minimum_percent}
    slow = new("envoy.config.cluster.v3.Cluster.SlowStartConfig", **fields)
    if cluster.lb_policy == _number("ROUND_ROBIN"):
        cluster.round_robin_lb_config.slow_start_config.CopyFrom(slow)
    else:
        cluster.least_request_lb_config.slow_start_config.CopyFrom(slow)
