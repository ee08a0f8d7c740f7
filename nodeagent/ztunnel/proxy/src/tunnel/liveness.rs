//! Whether the peer of a tunnel is still there: when something came last, and since when a PING waits for a sign of life. No I/O.

use std::cell::Cell;
use std::time::{Duration, Instant};

pub struct Liveness {
    heard: Cell<Instant>,
    asked: Cell<Option<Instant>>,
}

impl Liveness {
    pub fn new(now: Instant) -> Self {
        Self { heard: Cell::new(now), asked: Cell::new(None) }
    }

    /// Something came, whatever it was: the peer is there.
    pub fn heard(&self, now: Instant) {
        self.heard.set(now);
    }

    /// The PING was answered.
    pub fn answered(&self) {
        self.asked.set(None);
    }

    /// True when a PING is to be sent: nothing has come for `quiet`, and no other is on its way.
    pub fn ask(&self, now: Instant, quiet: Duration) -> bool {
        let due = self.asked.get().is_none() && now.saturating_duration_since(self.heard.get()) >= quiet;
        if due {
            self.asked.set(Some(now));
        }
        due
    }

    /// When the peer counts as silent, if nothing comes before: `patience` after the PING, or after what came since.
    /// A PING may wait long behind bulk data, but that comes with window updates.
    pub fn silent_at(&self, patience: Duration) -> Option<Instant> {
        self.asked.get()?.max(self.heard.get()).checked_add(patience)
    }

    pub fn is_silent(&self, now: Instant, patience: Duration) -> bool {
        self.silent_at(patience).is_some_and(|at| now >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_peer_that_was_not_asked_is_never_silent() {
        let start = Instant::now();
        let liveness = Liveness::new(start);
        assert!(!liveness.is_silent(start + 3600 * SECOND, SECOND));
        assert!(!liveness.ask(start + SECOND, 2 * SECOND), "it spoke a moment ago");
        assert_eq!(liveness.silent_at(SECOND), None);
    }

    #[test]
    fn it_is_silent_when_patience_has_passed_since_the_one_ping() {
        let start = Instant::now();
        let liveness = Liveness::new(start);
        assert!(liveness.ask(start + SECOND, SECOND));
        assert!(!liveness.ask(start + 2 * SECOND, SECOND), "one at a time");
        assert_eq!(liveness.silent_at(SECOND), Some(start + 2 * SECOND));
        assert!(liveness.is_silent(start + 2 * SECOND, SECOND));
    }

    #[test]
    fn whatever_it_says_is_a_sign_of_life() {
        let start = Instant::now();
        let liveness = Liveness::new(start);
        assert!(liveness.ask(start, Duration::ZERO));
        liveness.heard(start + SECOND);
        assert!(!liveness.is_silent(start + SECOND + SECOND / 2, SECOND));
        assert!(liveness.is_silent(start + 2 * SECOND, SECOND), "the PING still waits");
        liveness.answered();
        assert!(!liveness.is_silent(start + 9 * SECOND, SECOND));
    }
}
