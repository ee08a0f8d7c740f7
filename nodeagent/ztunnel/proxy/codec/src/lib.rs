//! HTTP/2 as HBONE needs it, without I/O: bytes go in, events come out, and nothing waits, locks or spawns.
//!
//! Only `CONNECT` tunnels exist here. The caller owns sockets, TLS, deadlines and buffers:
//!
//! ```
//! use hbone_codec::{Connection, ConnectionError, Event};
//!
//! /// One turn: a decrypted TLS record, or any other cut of the peer's bytes.
//! fn turn(connection: &mut Connection, mut input: &[u8], application: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), ConnectionError> {
//!     let now = std::time::Instant::now();
//!     while let Some(event) = connection.receive(&mut input, now)? {
//!         match event {
//!             // Borrowed from the input and not from the connection, which can be called back in the same turn.
//!             Event::Data { stream, payload } => {
//!                 application.extend_from_slice(payload);
//!                 connection.release(stream, payload.len());
//!             }
//!             Event::Request(request) => {
//!                 let status = if request.malformed.is_some() { 400 } else { 200 };
//!                 connection.respond(request.stream, status).expect("asked just now");
//!             }
//!             _ => {}
//!         }
//!     }
//!     connection.take_control(out); // SETTINGS, HEADERS, WINDOW_UPDATE, ...: encrypt and write
//!     Ok(())
//! }
//! ```
//!
//! After an error `take_control` yields the GOAWAY that tells the peer why; write it if that needs no waiting, then close.

mod budget;
mod config;
mod connection;
mod error;
mod event;
mod frame;
mod headers;
mod hpack;
mod message;
mod stream;
mod window;

pub use config::{CheckedConfig, Config, ConfigError, FloodLimits};
pub use connection::{Connection, PeerSettings, Role};
pub use error::{Code, ConnectionError, OpenError, SendError};
pub use event::{Event, Malformed, Request, StreamId};
pub use headers::{HeaderBlock, HeaderError, Headers};
