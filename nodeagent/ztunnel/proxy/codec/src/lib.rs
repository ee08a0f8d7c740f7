//! HTTP/2 as HBONE needs it, without I/O: bytes go in, events come out, and nothing waits, locks or spawns.
//!
//! Only `CONNECT` tunnels exist here. The caller owns sockets, TLS, deadlines and buffers:
//!
//! ```ignore
//! let mut input: &[u8] = plaintext;                       // one decrypted TLS record, or any other cut
//! while let Some(event) = connection.receive(&mut input, now)? {
//!     match event {
//!         Event::Data { stream, payload } => {            // borrowed from `plaintext`, not from `connection`
//!             let written = application.try_write(payload)?;
//!             connection.release(stream, written);        // so calling back in the same turn is fine
//!         }
//!         Event::Request(request) => connection.respond(request.stream, 200)?,
//!         ...
//!     }
//! }
//! connection.take_control(&mut out);                      // SETTINGS, WINDOW_UPDATE, RST_STREAM, ... to encrypt and write
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
