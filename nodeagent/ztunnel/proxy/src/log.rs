//! The proxy's own log: a few lines on standard error, at most so many a second.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

const LINES_PER_SECOND: u64 = 20;

static SECOND: AtomicU64 = AtomicU64::new(0);
static LINES: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Writes a line unless this second has had enough of them; how many were dropped is said with the next.
pub fn write(line: std::fmt::Arguments<'_>) {
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if SECOND.swap(second, Relaxed) != second {
        LINES.store(0, Relaxed);
    }
    if LINES.fetch_add(1, Relaxed) >= LINES_PER_SECOND {
        DROPPED.fetch_add(1, Relaxed);
        return;
    }
    // Whoever read it may be gone; that is no reason to stop.
    let _ = match DROPPED.swap(0, Relaxed) {
        0 => writeln!(io::stderr(), "nodemesh-proxy: {line}"),
        dropped => writeln!(io::stderr(), "nodemesh-proxy: {line} ({dropped} lines before this one were dropped)"),
    };
}

macro_rules! log {
    ($($argument:tt)*) => { $crate::log::write(format_args!($($argument)*)) };
}
pub(crate) use log;
