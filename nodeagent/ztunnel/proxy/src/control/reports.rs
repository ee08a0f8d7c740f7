//! What the agent is told of its own accord or on request: counters, the access log, open connections, gauges.

use super::link::Link;
use crate::limits::{Shed, Usage};
use crate::messages::LogEntry;
use crate::protocol::{CounterRow, FromProxy, ProxyStatus, encode};
use crate::series::SeriesTable;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);
const LOG_BATCH: usize = 256;
/// Rows or entries in one message: far from its largest size, whatever the attributes.
const PART: usize = 1000;
/// With this much unread by the agent, counters and log wait here.
const MAX_UNREAD_BYTES: usize = 4 << 20;

/// When counters are sent.
#[derive(Clone, Copy, PartialEq)]
pub enum Sending {
    /// Once a second, if there is anything to say.
    WhenDue,
    /// Now, if there is anything to say.
    Now,
    /// Now, and in any case.
    Answer(u64),
}

pub struct Reports {
    workers: usize,
    log: VecDeque<LogEntry>,
    counters_sent: Instant,
    lost_told: u64,
    /// Workers that have not answered yet, by request.
    flushing: HashMap<u64, usize>,
    listing: HashMap<u64, usize>,
}

impl Reports {
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            log: VecDeque::new(),
            counters_sent: Instant::now(),
            lost_told: 0,
            flushing: HashMap::new(),
            listing: HashMap::new(),
        }
    }

    pub fn end_session(&mut self) {
        self.flushing.clear();
        self.listing.clear();
    }

    pub fn closed(&mut self, entries: Vec<LogEntry>) {
        self.log.extend(entries);
    }

    pub fn start_flush(&mut self, request: u64) {
        self.flushing.insert(request, self.workers);
    }

    pub fn start_list(&mut self, request: u64) {
        self.listing.insert(request, self.workers);
    }

    /// A worker has flushed; true when it was the last.
    pub fn flushed(&mut self, request: u64) -> bool {
        count_down(&mut self.flushing, request) == Some(0)
    }

    pub fn listed(&mut self, request: u64, mut entries: Vec<LogEntry>, series: &mut SeriesTable, link: &mut Link) {
        let Some(left) = count_down(&mut self.listing, request) else { return };
        send_rows(series.define(entries.iter().map(|entry| entry.series.id)), link);
        loop {
            let part: Vec<LogEntry> = entries.drain(..entries.len().min(PART)).collect();
            let last = left == 0 && entries.is_empty();
            let open = part.into_iter().map(|entry| entry.entry).collect();
            link.queue(&encode(&FromProxy::Connections { request, open, last }), Vec::new());
            if entries.is_empty() {
                return;
            }
        }
    }

    pub fn send_log(&mut self, series: &mut SeriesTable, usage: &Usage, link: &mut Link) {
        while !self.log.is_empty() && link.queued_bytes() < MAX_UNREAD_BYTES {
            let batch: Vec<LogEntry> = self.log.drain(..self.log.len().min(LOG_BATCH)).collect();
            usage.log_entries.remove(batch.len() as u64);
            send_rows(series.define(batch.iter().map(|entry| entry.series.id)), link);
            let entries = batch.into_iter().map(|entry| entry.entry).collect();
            link.queue(&encode(&FromProxy::Closed { entries }), Vec::new());
        }
    }

    pub fn send_counters(&mut self, sending: Sending, series: &mut SeriesTable, usage: &Usage, link: &mut Link) {
        let due = self.counters_sent.elapsed() >= COUNTERS_INTERVAL && link.queued_bytes() < MAX_UNREAD_BYTES;
        if !due && sending == Sending::WhenDue {
            return;
        }
        self.counters_sent = Instant::now();
        let mut rows = series.report();
        let lost_total = usage.shed_totals().get(Shed::LogEntries.as_str()).copied().unwrap_or(0);
        let lost_log_entries = lost_total - std::mem::replace(&mut self.lost_told, lost_total);
        let request = match sending {
            Sending::Answer(request) => Some(request),
            Sending::WhenDue | Sending::Now => None,
        };
        if rows.is_empty() && lost_log_entries == 0 && request.is_none() {
            return;
        }
        let last = rows.split_off(rows.len().saturating_sub(PART));
        while !rows.is_empty() {
            send_rows(rows.drain(..rows.len().min(PART)).collect(), link);
        }
        link.queue(&encode(&FromProxy::Counters { rows: last, request, lost_log_entries }), Vec::new());
    }

    pub fn status(&self, request: u64, usage: &Usage, (routes, verdicts, waiting): (usize, usize, usize)) -> FromProxy {
        FromProxy::ProxyStatus(ProxyStatus {
            request,
            connections: usage.connections.get(),
            tunnels_in: usage.tunnels_in.get(),
            tunnels_out: usage.tunnels_out.get(),
            held_routes: routes as u64,
            held_verdicts: verdicts as u64,
            waiting_questions: waiting as u64,
            resident_bytes: resident_bytes(),
            shed: usage.shed_totals(),
        })
    }
}

fn send_rows(rows: Vec<CounterRow>, link: &mut Link) {
    if !rows.is_empty() {
        link.queue(&encode(&FromProxy::Counters { rows, request: None, lost_log_entries: 0 }), Vec::new());
    }
}

fn count_down(waiting: &mut HashMap<u64, usize>, request: u64) -> Option<usize> {
    let left = waiting.get_mut(&request)?;
    *left -= 1;
    let left = *left;
    if left == 0 {
        waiting.remove(&request);
    }
    Some(left)
}

/// The resident set as the kernel counts it; 0 if it does not say.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
