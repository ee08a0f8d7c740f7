//! Counters and log entries that are handed to the link and not sent yet: a session that breaks must not lose them silently. No I/O.

use crate::protocol::CounterRow;
use crate::series::{Series, SeriesTable};
use std::collections::VecDeque;
use std::sync::Arc;

/// A row with the series that it was taken from.
pub type Counted = (CounterRow, Arc<Series>);

/// What a session that broke did not send.
#[derive(Debug, Default, PartialEq)]
pub struct Lost {
    pub log_entries: u64,
    /// Entries whose loss was to be told.
    pub untold: u64,
}

enum Content {
    Log(u64),
    Counters { rows: Vec<Counted>, lost_log_entries: u64 },
}

/// Each with the position in the link's bytes where it ends.
#[derive(Default)]
pub struct Unsent(VecDeque<(u64, Content)>);

impl Unsent {
    pub fn log(&mut self, ends_at: u64, entries: u64) {
        self.0.push_back((ends_at, Content::Log(entries)));
    }

    pub fn counters(&mut self, ends_at: u64, rows: Vec<Counted>, lost_log_entries: u64) {
        self.0.push_back((ends_at, Content::Counters { rows, lost_log_entries }));
    }

    /// All up to this position has been sent.
    pub fn sent(&mut self, position: u64) {
        while self.0.front().is_some_and(|(ends_at, _)| *ends_at <= position) {
            self.0.pop_front();
        }
    }

    /// Puts the counters back, to be told in the next session.
    pub fn take_back(&mut self, series: &mut SeriesTable) -> Lost {
        let mut lost = Lost::default();
        for (_, content) in self.0.drain(..) {
            match content {
                Content::Log(entries) => lost.log_entries += entries,
                Content::Counters { rows, lost_log_entries } => {
                    lost.untold += lost_log_entries;
                    rows.into_iter().for_each(|(row, of)| series.put_back(&row, of));
                }
            }
        }
        lost
    }
}
