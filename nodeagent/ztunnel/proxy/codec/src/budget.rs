//! A bucket of tokens: what a peer may ask of us without giving anything.

use std::time::{Duration, Instant};

/// Filled with time and by useful work, emptied by frames that cost and carry nothing.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: u32,
    capacity: u32,
    per_s: u32,
    refilled_at: Instant,
}

impl Bucket {
    pub(crate) fn new(capacity: u32, per_s: u32, now: Instant) -> Self {
        Self { tokens: capacity, capacity, per_s, refilled_at: now }
    }

    /// Take `cost` tokens, or none and return false.
    pub(crate) fn take(&mut self, cost: u32, now: Instant) -> bool {
        self.refill(now);
        match self.tokens.checked_sub(cost) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    /// Useful work was done.
    pub(crate) fn earn(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.capacity);
    }

    fn refill(&mut self, now: Instant) {
        let elapsed_us = now.saturating_duration_since(self.refilled_at).as_micros();
        let due = elapsed_us * u128::from(self.per_s) / 1_000_000;
        if due == 0 {
            return;
        }
        // Only the time that became whole tokens is used up, else frequent calls would never refill.
        let used_us = due * 1_000_000 / u128::from(self.per_s);
        self.refilled_at += Duration::from_micros(u64::try_from(used_us).unwrap_or(u64::MAX));
        self.earn(u32::try_from(due).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refills_with_time_up_to_its_capacity() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 2, start);
        assert!(bucket.take(10, start));
        assert!(!bucket.take(1, start + Duration::from_millis(499)));
        assert!(bucket.take(1, start + Duration::from_millis(500)));
        assert!(!bucket.take(11, start + Duration::from_secs(1000)));
        assert!(bucket.take(10, start + Duration::from_secs(1000)));
    }

    #[test]
    fn frequent_calls_lose_no_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 10, start);
        assert!(bucket.take(10, start));
        let taken = (0..1000).filter(|ms| bucket.take(1, start + Duration::from_millis(*ms))).count();
        assert_eq!(taken, 9);
    }

    #[test]
    fn work_earns_tokens() {
        let start = Instant::now();
        let mut bucket = Bucket::new(4, 0, start);
        assert!(bucket.take(4, start));
        bucket.earn(3);
        assert!(bucket.take(3, start));
        assert!(!bucket.take(1, start + Duration::from_secs(9)));
    }
}
