"""The stream of an Envoy: four types that must come in an order, so that nothing is named before it is there and ready.

Clusters and their endpoints first, then listeners, then routes; what listeners and routes no longer name goes last. Envoy asks for the
endpoints of a cluster when it has the cluster, and does not use it before it has them: so listeners and routes wait until it has asked
for them and taken them. A client that never does would wait for ever: after GATE_S it gets them anyway.
"""

from collections.abc import Collection, Mapping
from typing import Final

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SERVED
from control.resources import ResourceView, TypeURL
from control.xds.refusals import MAX_TEXT, Refusal, Refusals, Verdict, named_in
from control.xds.stream import Stream
from meshapi import discovery

GATE_S: Final = 10.0


class ProxyStream(Stream):
    """`step` may return several responses, in the order in which they must be sent."""

    def __init__(self, views: Mapping[TypeURL, ResourceView]) -> None:
        super().__init__(views)
        self.refusals = Refusals()
        self._verdicts: list[Verdict] = []
        self._sent: dict[TypeURL, discovery.Response] = {}
        self._closed_since_s: float | None = None
        self._forced = False

    def _answers(self, types: Collection[TypeURL]) -> list[discovery.Response]:
        others = super()._answers([one for one in types if one not in SERVED])
        return others + (self._in_order() if any(one in SERVED for one in types) else [])

    def _ticked(self, now_s: float) -> list[discovery.Response]:
        if not self._waiting:
            self._closed_since_s, self._forced = None, False
            return []
        if self._closed_since_s is None:
            self._closed_since_s = now_s
        self._forced = now_s - self._closed_since_s >= GATE_S
        return self._in_order() if self._forced else []

    @property
    def _waiting(self) -> bool:
        """Whether something is held back."""
        return any(self._subscriptions[one].news for one in (LISTENER, ROUTES) if one in self._subscriptions and not self._open(one))

    def _in_order(self) -> list[discovery.Response]:
        responses: list[discovery.Response] = []
        for type_url in SERVED:
            subscription = self._subscriptions.get(type_url)
            if subscription is None or not (self._forced or self._open(type_url)):
                continue
            removals = type_url not in {CLUSTER, ENDPOINTS} or self._settled(LISTENER, ROUTES)
            responses += self._next(type_url, subscription, removals=removals)
        return responses

    def _open(self, type_url: TypeURL) -> bool:
        """Whether what a type's resources name is there."""
        if type_url == LISTENER:
            return self._settled(CLUSTER, ENDPOINTS) and self._warm
        if type_url == ROUTES:
            return self._settled(CLUSTER, ENDPOINTS, LISTENER) and self._warm
        return True

    def _settled(self, *types: TypeURL) -> bool:
        """Whether the client has taken all that there is of some types."""
        found = (self._subscriptions.get(one) for one in types)
        return all(one is None or not (one.waits_for_answer or one.news) for one in found)

    @property
    def _warm(self) -> bool:
        """Whether the client has asked for the endpoints of every cluster that it has."""
        clusters, endpoints = self._subscriptions.get(CLUSTER), self._subscriptions.get(ENDPOINTS)
        if clusters is None or ENDPOINTS not in self._views:
            return True
        asked: Collection[str] = endpoints.keys if endpoints is not None else ()
        names = self._views[ENDPOINTS].names(ENDPOINTS)
        return all(name in asked or not clusters.holds(name) or self.refusals.has(CLUSTER, name) for name in names)

    def verdicts(self) -> list[Verdict]:
        """What the client said to resources, each of them by itself, since this was asked last."""
        found, self._verdicts = self._verdicts, []
        return found

    def _under_way(self, type_url: TypeURL, response: discovery.Response) -> None:
        if type_url not in SERVED:
            return
        self._sent[type_url] = response
        endpoints = self._subscriptions.get(ENDPOINTS)
        if type_url == CLUSTER and endpoints is not None:
            # A cluster that was changed waits for its endpoints again, and asks only for those that it did not ask for before.
            endpoints.send_again([one.name for one in response.resources])

    def _answered(self, type_url: TypeURL, request: discovery.Request, now_s: float) -> None:
        sent = self._sent.pop(type_url, None)
        if sent is None:
            return
        versions = {one.name: one.version for one in sent.resources}
        self.refusals.accepted(type_url, [*versions, *sent.removed])
        if request.error is None:
            self._verdicts += [Verdict(type_url, name, version) for name, version in versions.items()]
            return
        blamed = named_in(request.error, versions)
        if blamed or len(versions) == 1:
            told = blamed or dict.fromkeys(versions, request.error)
            self._verdicts += [Verdict(type_url, name, version, told.get(name)) for name, version in versions.items()]
        else:
            self._subscriptions[type_url].send_alone(versions)
            blamed = dict.fromkeys(versions, request.error)
        for name, message in (blamed or dict.fromkeys(versions, request.error)).items():
            self.refusals.refused(Refusal(type_url, name, versions[name], now_s, message[:MAX_TEXT]))
