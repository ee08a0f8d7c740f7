//! What the agent is told of its own accord or on request: counters, the access log, open connections, gauges.

use super::link::Link;
use super::unsent::{Counted, Unsent};
use crate::limits::{Shed, Usage};
use crate::messages::LogEntry;
use crate::protocol::{CounterRow, FromProxy, ProxyStatus, encode};
use crate::series::SeriesTable;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);
const LOG_BATCH: usize = 512;
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
    unsent: Unsent,
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
            unsent: Unsent::default(),
            flushing: HashMap::new(),
            listing: HashMap::new(),
        }
    }

    /// What it did not send is told in the next one: counters as they were, of log entries how many they were.
    pub fn end_session(&mut self, link: &Link, series: &mut SeriesTable, usage: &Usage) {
        self.unsent.sent(link.sent_position());
        let lost = self.unsent.take_back(series);
        usage.shed_many(Shed::LogEntries, lost.log_entries);
        self.lost_told -= lost.untold;
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
        self.unsent.sent(link.sent_position());
        while !self.log.is_empty() && link.queued_bytes() < MAX_UNREAD_BYTES {
            let batch: Vec<LogEntry> = self.log.drain(..self.log.len().min(LOG_BATCH)).collect();
            usage.log_entries.remove(batch.len() as u64);
            send_rows(series.define(batch.iter().map(|entry| entry.series.id)), link);
            let entries: Vec<_> = batch.into_iter().map(|entry| entry.entry).collect();
            let count = entries.len() as u64;
            link.queue(&encode(&FromProxy::Closed { entries }), Vec::new());
            self.unsent.log(link.queued_position(), count);
        }
    }

    pub fn send_counters(&mut self, sending: Sending, series: &mut SeriesTable, usage: &Usage, link: &mut Link) {
        let due = self.counters_sent.elapsed() >= COUNTERS_INTERVAL && link.queued_bytes() < MAX_UNREAD_BYTES;
        if !due && sending == Sending::WhenDue {
            return;
        }
        self.counters_sent = Instant::now();
        self.unsent.sent(link.sent_position());
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
            let part = rows.drain(..rows.len().min(PART)).collect();
            self.send_counted(part, None, 0, link);
        }
        self.send_counted(last, request, lost_log_entries, link);
    }

    fn send_counted(&mut self, counted: Vec<Counted>, request: Option<u64>, lost_log_entries: u64, link: &mut Link) {
        let rows = counted.iter().map(|(row, _)| row.clone()).collect();
        link.queue(&encode(&FromProxy::Counters { rows, request, lost_log_entries }), Vec::new());
        self.unsent.counters(link.queued_position(), counted, lost_log_entries);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Flag;
    use std::os::unix::net::UnixListener;

    /// A link to an agent that accepts and never reads.
    async fn unread_link() -> (Link, UnixListener) {
        let path = std::env::temp_dir().join(format!("nodemesh-reports-{}.sock", std::process::id()));
        let agent = UnixListener::bind(&path).unwrap();
        let link = Link::dial(&path).await;
        std::fs::remove_file(&path).unwrap();
        (link.unwrap(), agent)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_a_session_that_broke_did_not_send_is_told_in_the_next() {
        let (mut link, _agent) = unread_link().await;
        let (mut reports, mut table, usage) = (Reports::new(1), SeriesTable::default(), Usage::default());
        let text = format!(r#"{{"filler":"{}"}}"#, "x".repeat(64 << 10));
        // What the kernel takes counts as told.
        let mut told = 0;
        for number in 0..20 {
            let of = table.intern(serde_json::value::RawValue::from_string(text.replace('x', &number.to_string())).unwrap());
            of.failed(Flag::UF);
            usage.shed(Shed::LogEntries);
            reports.send_counters(Sending::Now, &mut table, &usage, &mut link);
            link.flush().unwrap();
            told += u64::from(link.queued_bytes() == 0);
        }
        assert!(told > 0 && told < 20, "{told} were sent");
        reports.unsent.log(link.queued_position(), 7);
        reports.end_session(&link, &mut table, &usage);
        assert_eq!(table.report().iter().map(|(row, _)| row.failed["UF"]).sum::<u64>(), 20 - told);
        let lost = usage.shed_totals()["log_entries"] - reports.lost_told;
        assert_eq!(lost, 20 - told + 7);
    }
}
