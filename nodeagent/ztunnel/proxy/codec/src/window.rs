//! Flow-control windows, both ways (RFC 9113, section 5.2).

use crate::frame::MAX_WINDOW;

/// How much the peer may still send us, and what we have not given back yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveWindow {
    size: u32,
    /// What the peer may send.
    available: u32,
    /// Passed on, and not announced yet.
    credit: u32,
}

impl ReceiveWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self { size, available: size, credit: 0 }
    }

    pub(crate) fn available(&self) -> u32 {
        self.available
    }

    /// The peer used `bytes`; false when it was not allowed to.
    pub(crate) fn consume(&mut self, bytes: u32) -> bool {
        match self.available.checked_sub(bytes) {
            Some(left) => {
                self.available = left;
                true
            }
            None => false,
        }
    }

    /// `bytes` were passed on. Returns the increment to announce once half the window has gathered.
    ///
    /// Enough for a stream: all it holds is released sooner or later, so half is always reached before the peer waits for ever.
    pub(crate) fn release(&mut self, bytes: u32) -> Option<u32> {
        self.credit += bytes;
        (self.credit >= self.size / 2).then(|| self.announce())
    }

    /// As `release`, for a window that streams share: also announces when the peer has no more left than what has gathered.
    ///
    /// Streams that stall keep what they hold. If they hold more than half, half would never gather, and those
    /// that do not stall would wait for them.
    pub(crate) fn release_shared(&mut self, bytes: u32) -> Option<u32> {
        self.credit += bytes;
        (self.credit > 0 && (self.credit >= self.size / 2 || self.credit >= self.available)).then(|| self.announce())
    }

    fn announce(&mut self) -> u32 {
        let increment = std::mem::take(&mut self.credit);
        self.available += increment;
        increment
    }
}

/// How much we may send. Negative after the peer has lowered its initial window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self(i64::from(size))
    }

    pub(crate) fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    /// Add what the peer grants or takes back; false when the sum is beyond what the protocol allows.
    pub(crate) fn shift(&mut self, delta: i64) -> bool {
        self.0 += delta;
        self.0 <= MAX_WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_announces_by_halves() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.consume(100));
        assert!(!window.consume(1));
        assert_eq!(window.release(49), None);
        assert_eq!(window.release(1), Some(50));
        assert_eq!(window.available(), 50);
    }

    #[test]
    fn stalled_streams_do_not_stop_the_others() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.consume(90)); // held by streams that stall
        for _ in 0..50 {
            let bytes = window.available();
            assert!(bytes > 0, "the peer waits for ever");
            assert!(window.consume(bytes));
            window.release_shared(bytes);
        }
    }

    #[test]
    fn a_send_window_goes_below_zero_and_never_over_the_limit() {
        let mut window = SendWindow::new(10);
        window.consume(10);
        assert!(window.shift(-5));
        assert_eq!(window.available(), 0);
        assert!(window.shift(6));
        assert_eq!(window.available(), 1);
        assert!(!window.shift(MAX_WINDOW));
    }
}
