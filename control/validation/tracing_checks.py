"""Checks of tracing: what of it a proxy can do, and that Envoy takes every tag."""

from collections.abc import Iterator, Mapping
from typing import Final

from control.kinds.telemetry import Tracing
from control.kinds.tracing import CustomTag, HTTPHeader, OpenTelemetryTracing, ProxyTracing, ZipkinTracing
from control.validation import values
from control.validation.core_checks import Path, attempt, attempt_port
from control.validation.durations import seconds
from control.validation.finding import Remark
from control.validation.log_formats import check_text
from control.validation.token_checks import header_name

MAX_TAGS: Final = 64
_MAX_NAME: Final = 256
_MAX_VALUE: Final = 1024
_MAX_TAG_LENGTH: Final = 65_536


def tracing_remarks(tracing: Tracing, path: Path) -> Iterator[Remark]:
    """Of one entry of a Telemetry."""
    if len(tracing.providers) > 1:
        yield Remark((*path, "providers"), "spans go to one provider", "keep one of them")
    for at, provider in enumerate(tracing.providers):
        if not provider.name:
            yield Remark((*path, "providers", at, "name"), "an empty name")
    if tracing.random_sampling_percentage is not None:
        yield from attempt(percentage, tracing.random_sampling_percentage, (*path, "randomSamplingPercentage"))
    if tracing.disable_context_propagation:
        yield Remark((*path, "disableContextPropagation"), "Envoy hands on the context of every span that it makes")
    for name, what in tag_errors(tracing.custom_tags):
        yield Remark((*path, "customTags", name) if name else (*path, "customTags"), what)


def tag_errors(tags: Mapping[str, CustomTag]) -> Iterator[tuple[str, str]]:
    """Names of tags, and what is wrong with them."""
    if len(tags) > MAX_TAGS:
        yield "", f"more than {MAX_TAGS} tags"
    for name, tag in tags.items():
        if not name or len(name) > _MAX_NAME or not name.isprintable():
            yield name[:80], "no name of a tag"
            continue
        try:
            check_tag(tag)
        except ValueError as error:
            yield name[:80], str(error)


def check_tag(tag: CustomTag) -> None:
    """Raises ValueError for a tag that Envoy would not take, or should not be given."""
    if sum(one is not None for one in (tag.literal, tag.environment, tag.header, tag.formatter)) != 1:
        raise ValueError("a tag has one of literal, header, formatter")
    if tag.environment is not None:
        # The process beside Envoy may have been told a token by its environment.
        raise ValueError("the proxy's environment is shown to nobody: a literal says the same")
    for text in (tag.literal, tag.formatter):
        if text is not None and not 0 < len(text.value) <= _MAX_VALUE:
            raise ValueError(f"a value has 1 to {_MAX_VALUE} characters")
    if tag.formatter is not None:
        check_text(tag.formatter.value)
    if tag.header is not None:
        header_name(tag.header.name)
        if len(tag.header.default_value) > _MAX_VALUE:
            raise ValueError(f"a value has at most {_MAX_VALUE} characters")


def percentage(value: float) -> float:
    if not 0 <= value <= 100:
        raise ValueError(f"{value} is no percentage: 0 to 100")
    return value


def provider_remarks(provider: OpenTelemetryTracing | ZipkinTracing, path: Path) -> Iterator[Remark]:
    """Of a collector."""
    yield from attempt(service_name, provider.service, path)
    yield from attempt_port(provider.port, path)
    yield from attempt(_tag_length, provider.max_tag_length, path)
    match provider:
        case ZipkinTracing(path=where, timeout=timeout, headers=headers):
            yield from _request_remarks(where, timeout, headers, path)
        case OpenTelemetryTracing(http=http, grpc=grpc):
            if http is not None and grpc is not None:
                yield Remark(path, "opentelemetry: either http or grpc")
            if http is not None:
                yield from _request_remarks(http.path, http.timeout, http.headers, path)
            if grpc is not None:
                yield from _request_remarks("", grpc.timeout, grpc.initial_metadata, path)


def proxy_remarks(tracing: ProxyTracing, path: Path) -> Iterator[Remark]:
    """Of `defaultConfig.tracing`."""
    if tracing.sampling is not None:
        yield from attempt(percentage, tracing.sampling, path)
    yield from attempt(_tag_length, tracing.max_path_tag_length, path)
    for name, what in tag_errors(tracing.custom_tags):
        yield Remark(path, f"defaultConfig.tracing.customTags {name}: {what}")
    if tracing.zipkin is not None and tracing.zipkin.address:
        yield from attempt(host_and_port, tracing.zipkin.address, path)


def host_and_port(text: str) -> tuple[str, int]:
    """`host:port`; raises ValueError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text[:80]!r} is no host:port")
    return values.host(host), int(port)


def service_name(text: str) -> None:
    """A host, or `namespace/host`."""
    namespace, slash, host = text.rpartition("/")
    values.host(host)
    if slash:
        values.label_name(namespace)


def _tag_length(value: int) -> int:
    if not 0 <= value <= _MAX_TAG_LENGTH:
        raise ValueError(f"{value} is no length of a tag: 0 to {_MAX_TAG_LENGTH}")
    return value


def _request_remarks(where: str, timeout: str, headers: tuple[HTTPHeader, ...], path: Path) -> Iterator[Remark]:
    if where and not (where.startswith("/") and where.isascii() and where.isprintable() and " " not in where):
        yield Remark(path, "the path of a collector begins with /")
    if timeout:
        yield from attempt(seconds, timeout, path)
    for header in headers:
        yield from attempt(header_name, header.name, path)
        if header.env_name:
            yield Remark(path, f"header {header.name[:80]}: the controller's environment is shown to nobody; state a value")
        elif not header.value.isprintable() or len(header.value) > _MAX_VALUE:
            yield Remark(path, f"header {header.name[:80]}: no value of a header")
