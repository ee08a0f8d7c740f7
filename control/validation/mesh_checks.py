"""Checks of the mesh configuration."""

from collections.abc import Iterator

from control.kinds.mesh_config import (
    KEY,
    OWN_KEY,
    ExtensionProvider,
    FileAccessLog,
    GRPCAuthorizer,
    HTTPAuthorizer,
    LogEncoding,
    LogFormat,
    MeshConfig,
    MeshOptions,
)
from control.validation import log_formats, values
from control.validation.core_checks import attempt, attempt_port
from control.validation.durations import seconds
from control.validation.finding import Remark
from control.validation.statuses import REFUSING
from control.validation.token_checks import header_name
from control.validation.tracing_checks import provider_remarks as collector_remarks
from control.validation.tracing_checks import proxy_remarks, service_name

_MAX_BODY_BYTES = 16 * 1024 * 1024
LOG_FILES = ("/dev/stdout", "/dev/stderr")
_PATH = ("data", KEY)


def mesh_config_remarks(config: MeshConfig) -> Iterator[Remark]:
    """Of Istio's part, and of our own."""
    yield from _own_remarks(config)
    try:
        options = config.options()
    except ValueError as error:
        yield Remark(_PATH, str(error)[:500])
        return
    yield from _log_remarks(options)
    yield from proxy_remarks(options.default_config.tracing, _PATH)
    names = [one.name for one in options.extension_providers]
    for name in sorted({name for name in names if names.count(name) > 1 or not name}):
        yield Remark(_PATH, f"extensionProviders: more than one is named {name!r}" if name else "extensionProviders: one has no name")
    for provider in options.extension_providers:
        for remark in _provider_remarks(provider):
            yield Remark(_PATH, f"extensionProviders {provider.name[:80]}: {remark.what}")


def _own_remarks(config: MeshConfig) -> Iterator[Remark]:
    path = ("data", OWN_KEY)
    try:
        counting = config.own_options().rate_limit_service
    except ValueError as error:
        yield Remark(path, str(error)[:500])
        return
    if counting is not None:
        yield from attempt(values.host, counting.service.rpartition("/")[2], path)
        yield from attempt_port(counting.port, path)
        if counting.timeout:
            yield from attempt(seconds, counting.timeout, path)


def _log_remarks(options: MeshOptions) -> Iterator[Remark]:
    if options.access_log_file and options.access_log_file not in LOG_FILES:
        yield Remark(_PATH, f"accessLogFile: {options.access_log_file[:80]!r} is none of {', '.join(LOG_FILES)}")
    if options.access_log_format:
        check = log_formats.fields if options.access_log_encoding is LogEncoding.JSON else log_formats.check_text
        try:
            check(options.access_log_format)
        except ValueError as error:
            yield Remark(_PATH, f"accessLogFormat: {error}"[:300])


def _provider_remarks(provider: ExtensionProvider) -> Iterator[Remark]:
    for authorizer in (provider.envoy_ext_authz_grpc, provider.envoy_ext_authz_http):
        if authorizer is not None:
            yield from _authorizer_remarks(authorizer)
    for collector in (provider.opentelemetry, provider.zipkin):
        if collector is not None:
            yield from collector_remarks(collector, _PATH)
    yield from _logging_remarks(provider)
    http = provider.envoy_ext_authz_http
    if http is not None:
        if http.path_prefix and not (http.path_prefix.startswith("/") and http.path_prefix.isprintable() and " " not in http.path_prefix):
            yield Remark(_PATH, "pathPrefix begins with /")
        for name in http.include_additional_headers_in_check:
            yield from attempt(header_name, name, _PATH)


def _authorizer_remarks(authorizer: GRPCAuthorizer | HTTPAuthorizer) -> Iterator[Remark]:
    yield from attempt(values.host, authorizer.service.rpartition("/")[2], _PATH)
    yield from attempt_port(authorizer.port, _PATH)
    if authorizer.timeout:
        yield from attempt(seconds, authorizer.timeout, _PATH)
    if authorizer.status_on_error:
        yield from attempt(error_status, authorizer.status_on_error, _PATH)
    body = authorizer.include_request_body_in_check
    if body is not None and not 0 < body.max_request_bytes <= _MAX_BODY_BYTES:
        yield Remark(_PATH, f"maxRequestBytes must be 1 to {_MAX_BODY_BYTES}")


def _logging_remarks(provider: ExtensionProvider) -> Iterator[Remark]:
    if provider.envoy_file_access_log is not None:
        yield from _file_remarks(provider.envoy_file_access_log)
    for collector in (provider.envoy_http_als, provider.envoy_tcp_als, provider.envoy_otel_als):
        if collector is not None:
            yield from attempt(service_name, collector.service, _PATH)
            yield from attempt_port(collector.port, _PATH)
    if provider.envoy_otel_als is not None:
        yield from _format_remarks(provider.envoy_otel_als.log_format or LogFormat())
    for als in (provider.envoy_http_als, provider.envoy_tcp_als):
        for name in (
            *(als.additional_request_headers_to_log if als else ()),
            *(als.additional_response_headers_to_log if als else ()),
            *(als.additional_response_trailers_to_log if als else ()),
        ):
            yield from attempt(header_name, name, _PATH)


def _file_remarks(log: FileAccessLog) -> Iterator[Remark]:
    if log.path and log.path not in LOG_FILES:
        yield Remark(_PATH, f"envoyFileAccessLog: {log.path[:80]!r} is none of {', '.join(LOG_FILES)}")
    stated = log.log_format or LogFormat()
    if stated.text and stated.labels:
        yield Remark(_PATH, "envoyFileAccessLog: logFormat has both text and labels")
    yield from _format_remarks(stated)


def _format_remarks(stated: LogFormat) -> Iterator[Remark]:
    for text in (stated.text, *stated.labels.values()):
        yield from attempt(log_formats.check_text, text, _PATH)


def error_status(text: str) -> int:
    """An HTTP status that refuses."""
    if not text.isdecimal() or int(text) not in REFUSING:
        raise ValueError(f"{text[:40]!r} is no status that refuses: 400 to 599, of those that have a name")
    return int(text)
