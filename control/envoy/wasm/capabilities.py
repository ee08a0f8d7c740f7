"""What a module may ask of Envoy: about the request that it sees, logs, metrics, time, and HTTP.

Not among it are gRPC, by which a stream to the process beside Envoy could be held open, and Envoy's own functions ("foreign" ones), one of
which writes the connection's state: there the client's identity is, and whom an endpoint must prove to be.
"""

from typing import Final

_ASKED: Final = (
    "add_header_map_value", "close_stream", "continue_stream", "define_metric", "dequeue_shared_queue", "done", "enqueue_shared_queue",
    "get_buffer_bytes", "get_buffer_status", "get_current_time_nanoseconds", "get_header_map_pairs", "get_header_map_size",
    "get_header_map_value", "get_log_level", "get_metric", "get_property", "get_shared_data", "get_status", "http_call",
    "increment_metric", "log", "record_metric", "register_shared_queue", "remove_header_map_value", "replace_header_map_value",
    "resolve_shared_queue", "send_local_response", "set_buffer_bytes", "set_effective_context", "set_header_map_pairs", "set_property",
    "set_shared_data", "set_tick_period_milliseconds",
    # Of the first version of the interface.
    "clear_route_cache", "continue_request", "continue_response", "get_configuration",
)  # fmt: skip
"""What Envoy offers."""
_TOLD: Final = (
    "on_configure", "on_context_create", "on_delete", "on_done", "on_http_call_response", "on_log", "on_queue_ready", "on_request_body",
    "on_request_headers", "on_request_metadata", "on_request_trailers", "on_response_body", "on_response_headers", "on_response_metadata",
    "on_response_trailers", "on_tick", "on_vm_start", "validate_configuration",
)  # fmt: skip
"""What Envoy tells a module."""
_SYSTEM: Final = (
    "args_get", "args_sizes_get", "clock_time_get", "environ_get", "environ_sizes_get", "fd_close", "fd_fdstat_get", "fd_prestat_dir_name",
    "fd_prestat_get", "fd_read", "fd_seek", "fd_write", "poll_oneoff", "proc_exit", "random_get", "sched_yield",
)  # fmt: skip
"""What languages' own libraries ask for: Envoy answers with the module's own variables, with time, and logs what is written."""
CAPABILITIES: Final = (*(f"proxy_{name}" for name in (*_ASKED, *_TOLD)), *_SYSTEM)
