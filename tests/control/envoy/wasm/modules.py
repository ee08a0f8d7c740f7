"""Small modules for Envoy, written by hand: one marks requests, others fail, or ask for what they may not have."""

import hashlib
from pathlib import Path

import wasmtime

_BASE = """
  (memory (export "memory") 4)
  (global $top (mut i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32) (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get $size)))
    (local.get $at))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
"""
_CONFIGURED = '(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))'
MARKS = f"""(module
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $read (param i32 i32 i32 i32 i32) (result i32)))
  {_BASE}
  (data (i32.const 16) "x-configured")
  (data (i32.const 32) "x-wasm")
  (data (i32.const 48) "seen")
  ;; What it is configured with is the buffer 7; where it is and how long it is are kept.
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $read (i32.const 7) (i32.const 0) (local.get 1) (i32.const 64) (i32.const 68)))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $add (i32.const 0) (i32.const 32) (i32.const 6) (i32.const 48) (i32.const 4)))
    (drop (call $add (i32.const 0) (i32.const 16) (i32.const 12) (i32.load (i32.const 64)) (i32.load (i32.const 68))))
    (i32.const 0))
)"""
"""Adds headers to requests."""
TRAPS = f"""(module {_BASE} {_CONFIGURED}
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) unreachable)
)"""
"""Fails at every request."""
REACHES = f"""(module
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_call_foreign_function" (func $call (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_grpc_stream" (func $stream (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  {_BASE} {_CONFIGURED}
  (data (i32.const 16) "set_envoy_filter_state")
  (data (i32.const 48) "x-foreign")
  (data (i32.const 64) "x-stream")
  (data (i32.const 80) "sds-grpc")
  ;; Adds a header with a letter for what came back: `a` for success, and so on.
  (func $tell (param $name i32) (param $length i32) (param $result i32)
    (i32.store8 (i32.const 96) (i32.add (i32.const 97) (local.get $result)))
    (drop (call $add (i32.const 0) (local.get $name) (local.get $length) (i32.const 96) (i32.const 1))))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $tell (i32.const 48) (i32.const 9)
      (call $call (i32.const 16) (i32.const 22) (i32.const 0) (i32.const 0) (i32.const 128) (i32.const 132)))
    (call $tell (i32.const 64) (i32.const 8)
      (call $stream (i32.const 80) (i32.const 8) (i32.const 80) (i32.const 8) (i32.const 80) (i32.const 8)
        (i32.const 0) (i32.const 0) (i32.const 136)))
    (i32.const 0))
)"""
"""Asks for a function of Envoy's own that writes the connection's state, and for a stream to the process beside Envoy."""


def write(directory: Path, name: str, text: str) -> tuple[Path, str]:
    """The file with a module, and its SHA-256."""
    body = bytes(wasmtime.wat2wasm(text))
    file = directory / f"{name}.wasm"
    file.write_bytes(body)
    return file, hashlib.sha256(body).hexdigest()
