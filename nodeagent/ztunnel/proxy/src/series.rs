//! Flow counters: one series per distinct attributes, counted by the workers, reported by the control thread.

use crate::failure::Flag;
use crate::protocol::{Attributes, CounterRow};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is added here since the last report. Connections add their bytes once a second and when they end.
pub struct Series {
    pub id: u64,
    attributes: Arc<RawValue>,
    opened: AtomicU64,
    closed: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    failed: [AtomicU64; Flag::ALL.len()],
}

impl Series {
    pub fn new(id: u64, attributes: Arc<RawValue>) -> Self {
        Self {
            id,
            attributes,
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            failed: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    pub fn closed(&self) {
        self.closed.fetch_add(1, Relaxed);
    }

    pub fn moved(&self, sent_bytes: u64, received_bytes: u64) {
        self.sent_bytes.fetch_add(sent_bytes, Relaxed);
        self.received_bytes.fetch_add(received_bytes, Relaxed);
    }

    pub fn failed(&self, flag: Flag) {
        self.failed[flag as usize].fetch_add(1, Relaxed);
    }

    fn put_back(&self, row: &CounterRow) {
        self.opened.fetch_add(row.opened, Relaxed);
        self.closed.fetch_add(row.closed, Relaxed);
        self.moved(row.sent_bytes, row.received_bytes);
        for (flag, count) in Flag::ALL.iter().filter_map(|flag| Some((*flag, row.failed.get(flag.as_str())?))) {
            self.failed[flag as usize].fetch_add(*count, Relaxed);
        }
    }

    /// Takes what was counted; None when there is nothing to say.
    fn take(&self) -> Option<CounterRow> {
        let failed: BTreeMap<&'static str, u64> = Flag::ALL
            .iter()
            .map(|flag| (flag.as_str(), self.failed[*flag as usize].swap(0, Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let row = CounterRow {
            series: self.id,
            attributes: None,
            opened: self.opened.swap(0, Relaxed),
            closed: self.closed.swap(0, Relaxed),
            sent_bytes: self.sent_bytes.swap(0, Relaxed),
            received_bytes: self.received_bytes.swap(0, Relaxed),
            failed,
        };
        let idle = row.opened + row.closed + row.sent_bytes + row.received_bytes == 0 && row.failed.is_empty();
        (!idle).then_some(row)
    }
}

/// All series by the content of their attributes, and which of them the agent has been told in this session.
#[derive(Default)]
pub struct SeriesTable {
    by_content: HashMap<Arc<str>, Arc<Series>>,
    defined: HashSet<u64>,
    next_id: u64,
}

impl SeriesTable {
    pub fn intern(&mut self, attributes: Attributes) -> Arc<Series> {
        if let Some(series) = self.by_content.get(attributes.get()) {
            return series.clone();
        }
        self.next_id += 1;
        let content: Arc<str> = attributes.get().into();
        let series = Arc::new(Series::new(self.next_id, attributes.into()));
        self.by_content.insert(content, series.clone());
        series
    }

    /// A new session knows no series.
    pub fn start_session(&mut self) {
        self.defined.clear();
    }

    /// The rows that have something to say; series that nobody refers to any more go with their last row.
    pub fn report(&mut self) -> Vec<(CounterRow, Arc<Series>)> {
        let mut rows = Vec::new();
        let defined = &mut self.defined;
        self.by_content.retain(|_, series| {
            // The reference count is read before the counters: nobody can add to them once it is one.
            let referred = Arc::strong_count(series) > 1;
            if let Some(mut row) = series.take() {
                if defined.insert(series.id) {
                    row.attributes = Some(series.attributes.clone());
                }
                rows.push((row, series.clone()));
            }
            if !referred {
                defined.remove(&series.id);
            }
            referred
        });
        rows
    }

    /// Counts a row again that was not sent; its series may have gone with it, and may be here again under another number.
    pub fn put_back(&mut self, row: &CounterRow, series: Arc<Series>) {
        let content: Arc<str> = series.attributes.get().into();
        self.by_content.entry(content).or_insert(series).put_back(row);
    }

    /// Rows that define those of `ids` that this session does not know yet.
    pub fn define(&mut self, ids: impl Iterator<Item = u64>) -> Vec<CounterRow> {
        let unknown: HashSet<u64> = ids.filter(|id| !self.defined.contains(id)).collect();
        if unknown.is_empty() {
            return Vec::new();
        }
        let rows: Vec<CounterRow> =
            self.by_content.values().filter(|series| unknown.contains(&series.id)).map(|series| empty_row(series)).collect();
        self.defined.extend(rows.iter().map(|row| row.series));
        rows
    }
}

fn empty_row(series: &Series) -> CounterRow {
    CounterRow {
        series: series.id,
        attributes: Some(series.attributes.clone()),
        opened: 0,
        closed: 0,
        sent_bytes: 0,
        received_bytes: 0,
        failed: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(text: &str) -> Attributes {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn equal_attributes_share_a_series_and_are_sent_once_a_session() {
        let mut table = SeriesTable::default();
        let first = table.intern(attributes(r#"{"a":1}"#));
        let second = table.intern(attributes(r#"{"a":1}"#));
        assert_eq!(first.id, second.id);
        first.opened();
        second.moved(5, 7);
        let rows = table.report();
        assert_eq!((rows.len(), rows[0].0.opened, rows[0].0.sent_bytes, rows[0].0.received_bytes), (1, 1, 5, 7));
        assert!(rows[0].0.attributes.is_some());
        first.closed();
        assert!(table.report()[0].0.attributes.is_none());
        table.start_session();
        first.closed();
        assert!(table.report()[0].0.attributes.is_some());
    }

    #[test]
    fn a_series_goes_with_its_last_row() {
        let mut table = SeriesTable::default();
        let series = table.intern(attributes("{}"));
        series.failed(Flag::UF);
        drop(series);
        assert_eq!(table.report()[0].0.failed, BTreeMap::from([("UF", 1)]));
        assert!(table.by_content.is_empty() && table.defined.is_empty());
    }

    #[test]
    fn a_log_entry_gets_its_series_defined_first() {
        let mut table = SeriesTable::default();
        let series = table.intern(attributes("{}"));
        assert_eq!(table.define([series.id].into_iter()).len(), 1);
        assert!(table.define([series.id].into_iter()).is_empty());
    }

    #[test]
    fn a_row_that_was_not_sent_is_counted_again_wherever_its_series_is_by_then() {
        let mut table = SeriesTable::default();
        for again in [false, true] {
            let series = table.intern(attributes("{}"));
            series.failed(Flag::UF);
            series.moved(5, 7);
            drop(series);
            let (row, gone) = table.report().remove(0);
            let _held = again.then(|| table.intern(attributes("{}")));
            table.put_back(&row, gone);
            table.start_session();
            let (told, _) = table.report().remove(0);
            assert_eq!((told.failed, told.sent_bytes, told.received_bytes), (BTreeMap::from([("UF", 1)]), 5, 7));
            assert!(told.attributes.is_some());
        }
    }
}
