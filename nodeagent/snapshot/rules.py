"""One update of the policies and the indexes over them, in progress."""

from meshapi.authorization import Policy, PolicyScope
from nodeagent.policy.compiled import CompiledPolicy, compile_policy
from nodeagent.snapshot.overlay import Overlay, with_item, without_item
from nodeagent.snapshot.snapshot import GLOBAL_NAMESPACE, Snapshot

ALL_POLICIES = "policies:"
"""Touched when a policy of global scope, or one of unknown scope, or whether policies are known, changes."""


def namespace_dependency(namespace: str) -> str:
    return f"policies:{namespace}"


def policy_dependency(key: str) -> str:
    return f"policy:{key}"


class RulesEdit:
    """Collects changes of a snapshot's policies, and what they touch."""

    def __init__(self, base: Snapshot) -> None:
        self._root_namespace = base.root_namespace
        self.touched: set[str] = set()
        self.policies: Overlay[str, CompiledPolicy] = Overlay(base.policies_by_key)
        self.namespaces: Overlay[str, tuple[CompiledPolicy, ...]] = Overlay(base.policies_by_namespace)
        self.rejected: Overlay[str, str] = Overlay(base.rejected)

    def put(self, policy: Policy) -> None:
        self._drop(policy.key)
        self._accepted(policy.key)
        compiled = compile_policy(policy)
        self.policies.put(policy.key, compiled)
        self._touch(policy)
        if policy.scope is not PolicyScope.WORKLOAD_SELECTOR:
            index = _index(policy)
            self.namespaces.put(index, with_item(self.namespaces.get(index), compiled))

    def remove(self, key: str) -> None:
        self._accepted(key)
        self._drop(key)

    def reject(self, key: str, error: str) -> None:
        """This form could not be understood; the last good one, if there is one, stays."""
        self.rejected.put(key, error)
        self._touch_unknown_scope(key)

    def _accepted(self, key: str) -> None:
        if self.rejected.get(key) is not None:
            self.rejected.put(key, None)
            self._touch_unknown_scope(key)

    def _drop(self, key: str) -> None:
        former = self.policies.get(key)
        if former is None:
            return
        self.policies.put(key, None)
        self._touch(former.policy)
        index = _index(former.policy)
        self.namespaces.put(index, without_item(self.namespaces.get(index), former))

    def _touch(self, policy: Policy) -> None:
        self.touched.add(policy_dependency(policy.key))
        if policy.scope is not PolicyScope.WORKLOAD_SELECTOR:
            self.touched.add(namespace_dependency(_index(policy)))

    def _touch_unknown_scope(self, key: str) -> None:
        namespace = key.partition("/")[0]
        self.touched.add(policy_dependency(key))
        self.touched.add(ALL_POLICIES if namespace == self._root_namespace else namespace_dependency(namespace))


def _index(policy: Policy) -> str:
    return GLOBAL_NAMESPACE if policy.scope is PolicyScope.GLOBAL else policy.namespace
