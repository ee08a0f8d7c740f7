"""Collectors on loopback: spans by OTLP over gRPC and HTTP and by Zipkin's JSON, logs by OTLP and Envoy's own service; decoded."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from control.envoy.messages import Message, message_class
from demo.cluster import eventually

TRACES, LOGS, EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService", "opentelemetry.proto.collector.logs.v1.LogsService", "Export"
ACCESS_LOGS, STREAM = "envoy.service.accesslog.v3.AccessLogService", "StreamAccessLogs"


class Span:
    """One span, whoever told it."""

    def __init__(self, trace: str, own: str, parent: str, producer: str, tags: dict[str, str]) -> None:
        self.trace = trace
        self.id = own
        self.parent = parent
        self.producer = producer
        self.tags = tags


class Collector:
    """What it was told, and with which headers."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.spans: list[Span] = []
        self.records: list[tuple[str, dict[str, str]]] = []
        """Of OTLP's logs: bodies and attributes."""
        self.entries: list[tuple[str, Message]] = []
        """Of Envoy's service: names of logs, and messages."""
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []

    def span(self, mark: str) -> Span:
        """The one whose path has a mark; waits for it."""
        return eventually(lambda: next((one for one in self.spans if mark in self.where(one)), None), f"a span of {mark}", timeout_s=30)

    def told(self, mark: str) -> bool:
        return any(mark in self.where(one) for one in self.spans)

    @staticmethod
    def where(span: Span) -> str:
        return span.tags.get("http.url", "")


def from_otlp(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        about = {one.key: one.value.string_value for one in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                tags = {one.key: one.value.string_value for one in span.attributes}
                yield Span(span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), about["service.name"], tags)


def from_zipkin(body: bytes) -> Iterator[Span]:
    for span in json.loads(body):
        yield Span(span["traceId"], span["id"], span.get("parentId", ""), span["localEndpoint"]["serviceName"], span["tags"])


@contextmanager
def by_grpc() -> Iterator[Collector]:
    found = Collector(0)

    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        found.headers.append({str(key): str(value) for key, value in context.invocation_metadata()})
        found.spans.extend(from_otlp(ExportTraceServiceRequest.FromString(body)))
        return ExportTraceServiceResponse().SerializeToString()

    def records(body: bytes, _context: grpc.ServicerContext) -> bytes:
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
            for record in (one for scope in resource.scope_logs for one in scope.log_records):
                found.records.append((record.body.string_value, {one.key: one.value.string_value for one in record.attributes}))
        return ExportLogsServiceResponse().SerializeToString()

    def entries(bodies: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        name = ""
        for body in bodies:
            message = message_class(f"{ACCESS_LOGS.rpartition('.')[0]}.StreamAccessLogsMessage").FromString(body)
            name = message.identifier.log_name or name
            found.entries += [(name, one) for one in (*message.http_logs.log_entry, *message.tcp_logs.log_entry)]
        return b""

    server = grpc.server(ThreadPoolExecutor(8))
    handlers = {
        TRACES: {EXPORT: grpc.unary_unary_rpc_method_handler(export)},
        LOGS: {EXPORT: grpc.unary_unary_rpc_method_handler(records)},
        ACCESS_LOGS: {STREAM: grpc.stream_unary_rpc_method_handler(entries)},
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods) for service, methods in handlers.items()])
    found.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield found
    finally:
        server.stop(1).wait()


@contextmanager
def by_http() -> Iterator[Collector]:
    """Both OTLP and Zipkin, told apart by what is sent."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = (
                self._chunks()
                if self.headers.get("transfer-encoding") == "chunked"
                else self.rfile.read(int(self.headers["content-length"]))
            )
            found.headers.append({key.lower(): value for key, value in self.headers.items()})
            found.paths.append(self.path)
            zipkin = self.headers.get("content-type", "").startswith("application/json")
            found.spans.extend(from_zipkin(body) if zipkin else from_otlp(ExportTraceServiceRequest.FromString(body)))
            self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()

        def _chunks(self) -> bytes:
            found = bytearray()
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return bytes(found)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Collector(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="collector")
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
