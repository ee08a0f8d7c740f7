"""Policies of a test, in YAML."""


def authorization(spec: str, metadata: str = "{name: p, namespace: shop}") -> str:
    return f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {metadata}\nspec: {spec}\n"


def source(fields: str) -> str:
    return f"{{rules: [{{from: [{{source: {{{fields}}}}}]}}]}}"


def peer(spec: str, namespace: str = "shop") -> str:
    return f"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"
