"""Manifests of services, pods and a waypoint, for tests of the model."""

from meshapi.workload import GatewayAddress, ServiceKey

NAMESPACE = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, team: a%s}}
---
"""
API = """
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop, labels: {%s}}
spec: {clusterIP: 10.96.0.1, selector: {app: api}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {%s}}
spec: {nodeName: n1, serviceAccountName: %s, containers: [{name: c, ports: [{name: web, containerPort: 8080}, {containerPort: 9102}]}]}
status: {phase: Running, podIP: %s, conditions: [{type: Ready, status: "True"}]}
---
"""
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: %s, labels: {%s}}
spec:
  gatewayClassName: %s
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {%s}}}]
---
"""
GATE_SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: %s}
spec: {clusterIP: 10.96.0.9, selector: {is: gate}, ports: [{name: mesh, port: 15008}]}
---
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: %s}
spec: {targetRefs: [{kind: %s, name: %s}], action: %s, rules: [{to: [{operation: {methods: [GET]}}]}]}
---
"""
USE = "istio.io/use-waypoint: gate"
API_KEY = "shop/api.shop.svc.cluster.local"
GATE = GatewayAddress(service=ServiceKey("shop/gate.shop.svc.cluster.local"))
GUARD = "shop/only_through_waypoint_service_api"


def pod(name: str = "api", namespace: str = "shop", labels: str = "app: api", account: str = "api", ip: str = "10.0.0.1") -> str:
    return POD % (name, namespace, labels, account, ip)


def gateway(namespace: str = "shop", labels: str = "", kind: str = "istio-waypoint", origin: str = "from: Same", name: str = "gate") -> str:
    return GATEWAY % (name, namespace, labels, kind, origin)


def waypoint(namespace: str = "shop", labels: str = "", origin: str = "from: Same") -> str:
    """A waypoint that runs: its Gateway, service and pod."""
    return gateway(namespace, labels, origin=origin) + GATE_SERVICE % namespace + pod("gate", namespace, "is: gate", "gate", "10.0.0.9")


def policy(kind: str = "Service", name: str = "api", namespace: str = "shop", action: str = "ALLOW") -> str:
    return POLICY % (namespace, kind, name, action)
