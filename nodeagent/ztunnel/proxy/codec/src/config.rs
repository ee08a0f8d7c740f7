//! What this side allows its peer: streams, windows, sizes, and how much useless traffic is borne.

use std::fmt;

/// Bounds on frames that cost us work and carry nothing. Each is a bucket of tokens refilled with time;
/// useful work (data sent, tunnels answered) earns control tokens too, so that a busy honest peer is never cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimits {
    /// Tokens for PING, SETTINGS, WINDOW_UPDATE, PRIORITY, empty and unknown frames.
    pub control_burst: u32,
    /// Control tokens that come back each second.
    pub control_per_s: u32,
    /// Tokens for streams the peer resets before we answered, and for resets its errors made us send.
    pub reset_burst: u32,
    /// Reset tokens that come back each second.
    pub reset_per_s: u32,
    /// Most bytes of control output that may wait for the caller before the peer's next frame that asks for an answer is an error.
    pub control_output_bytes: usize,
}

/// Limits of one connection. Make one, [`Config::check`] it once, and use the result for every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Streams that the peer may have open (SETTINGS_MAX_CONCURRENT_STREAMS). Irrelevant in the client role.
    pub max_streams: u32,
    /// Receive window of a stream, in bytes: 65,535 at least, since the peer may assume that before it reads our SETTINGS.
    pub stream_window_bytes: u32,
    /// Receive window of the connection, in bytes: at least four stream windows, so that one stalled stream cannot stop the others.
    pub connection_window_bytes: u32,
    /// Largest frame payload that we accept: 16,384 to 1 MiB.
    pub max_frame_bytes: u32,
    /// Largest header list (names, values and 32 bytes a field) and largest header block on the wire.
    pub max_header_list_bytes: u32,
    /// Bounds on floods.
    pub flood: FloodLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 100,
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            max_frame_bytes: 1 << 20,
            max_header_list_bytes: 16 << 10,
            flood: FloodLimits {
                control_burst: 4096,
                control_per_s: 1000,
                reset_burst: 256,
                reset_per_s: 64,
                control_output_bytes: 64 << 10,
            },
        }
    }
}

/// A [`Config`] whose values are known to be within their bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedConfig(Config);

impl CheckedConfig {
    pub(crate) fn get(&self) -> &Config {
        &self.0
    }
}

/// A value of [`Config`] that is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The field of [`Config`].
    pub field: &'static str,
    /// What it must be.
    pub must_be: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be {}", self.field, self.must_be)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Check every bound once.
    ///
    /// # Errors
    /// The first field that is out of its bounds.
    pub fn check(self) -> Result<CheckedConfig, ConfigError> {
        let Self { stream_window_bytes: stream, connection_window_bytes: connection, .. } = self;
        let checks = [
            ((1..=100_000).contains(&self.max_streams), "max_streams", "1 to 100,000"),
            ((65_535..=1 << 28).contains(&stream), "stream_window_bytes", "65,535 to 256 MiB"),
            (
                connection <= 1 << 30 && connection / 4 >= stream,
                "connection_window_bytes",
                "at least four stream windows and at most 1 GiB",
            ),
            ((16_384..=1 << 20).contains(&self.max_frame_bytes), "max_frame_bytes", "16,384 to 1 MiB"),
            ((1024..=1 << 20).contains(&self.max_header_list_bytes), "max_header_list_bytes", "1 KiB to 1 MiB"),
            (self.flood.control_burst >= 256, "flood.control_burst", "at least 256"),
            (self.flood.reset_burst >= 1, "flood.reset_burst", "at least 1"),
            (self.flood.control_output_bytes >= 1024, "flood.control_output_bytes", "at least 1 KiB"),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, must_be)) => Err(ConfigError { field, must_be }),
            None => Ok(CheckedConfig(self)),
        }
    }
}
