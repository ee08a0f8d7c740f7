"""How requests are tried again, with Istio's defaults: twice, elsewhere, when nothing was done or 503 was answered."""

from typing import Any, Final

from control.envoy.messages import Message, new, packed
from control.envoy.parts import seconds
from control.kinds.routing import HTTPRetry
from control.validation.durations import seconds as duration

RETRY_ON: Final = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
STATUSES: Final = (503,)
ATTEMPTS: Final = 2
_STATUSES: Final = "retriable-status-codes"
_HOSTS: Final = "envoy.retry_host_predicates.previous_hosts"
_PRIORITIES: Final = "envoy.retry_priorities.previous_priorities"


def retry_policy(retries: HTTPRetry | None, *, sticky: bool) -> Message | None:
    """None: not at all. `sticky`: a request belongs to one endpoint, and is tried there again."""
    if retries is not None and not retries.attempts:
        return None
    stated = retries or HTTPRetry(attempts=ATTEMPTS)
    retry_on, statuses = _conditions(stated.retry_on)
    fields: dict[str, Any] = {
        "num_retries": {"value": stated.attempts},
        "retry_on": retry_on,
        "retriable_status_codes": statuses,
        "host_selection_retry_max_attempts": 5,
    }
    elsewhere = stated.retry_ignore_previous_hosts
    if elsewhere or (elsewhere is None and not sticky):
        predicate = packed(new("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"))
        fields["retry_host_predicate"] = [{"name": _HOSTS, "typed_config": predicate}]
    if stated.retry_remote_localities:
        config = new("envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=2)
        fields["retry_priority"] = {"name": _PRIORITIES, "typed_config": packed(config)}
    if stated.per_try_timeout:
        fields["per_try_timeout"] = seconds(duration(stated.per_try_timeout))
    if stated.backoff:
        fields["retry_back_off"] = {"base_interval": seconds(duration(stated.backoff))}
    return new("envoy.config.route.v3.RetryPolicy", **fields)


def _conditions(text: str) -> tuple[str, list[int]]:
    """Envoy's names of conditions, and the statuses among them."""
    if not text:
        return RETRY_ON, list(STATUSES)
    parts = [part for part in (one.strip() for one in text.split(",")) if part]
    names = [part for part in parts if not part.isdecimal()]
    statuses = [int(part) for part in parts if part.isdecimal()]
    if statuses and _STATUSES not in names:
        names.append(_STATUSES)
    return ",".join(names), statuses
