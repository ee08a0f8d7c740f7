//! Open connections of a worker: what is counted of each, and how each can be ended from outside.

use super::{Worker, Workload};
use crate::answers::{Flow, Verdict};
use crate::failure::{Failure, Flag};
use crate::limits::{ConnectionPermit, Shed};
use crate::log::log;
use crate::messages::{LogEntry, MAX_LOG_ENTRIES, ToControl};
use crate::protocol::{ConnectionEntry, Direction, Via};
use crate::series::Series;
use crate::signal::Signal;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const LOG_BATCH: usize = 512;

/// What is known of a connection from its first moment.
pub struct Opening {
    pub workload: Rc<Workload>,
    pub direction: Direction,
    pub via: Via,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub source_identity: Option<Arc<str>>,
}

pub struct Conn {
    pub id: u64,
    pub workload: Rc<Workload>,
    pub direction: Direction,
    pub via: Cell<Via>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub hbone_address: Cell<Option<SocketAddr>>,
    /// The kernel's number for the socket towards the other workload: the tunnel's, or its own.
    pub socket: Cell<Option<u64>>,
    pub source_identity: RefCell<Option<Arc<str>>>,
    pub destination_identity: RefCell<Option<Arc<str>>>,
    /// The verdict that this connection stands on.
    pub flow: RefCell<Option<(u64, Flow)>>,
    pub half_closed: Cell<bool>,
    opened: Instant,
    series: RefCell<Arc<Series>>,
    policy: RefCell<Option<String>>,
    established: Cell<bool>,
    ended: Cell<bool>,
    /// Bytes from the application's client, and to it.
    sent_bytes: Cell<u64>,
    received_bytes: Cell<u64>,
    /// What of them the series has.
    flushed: Cell<(u64, u64)>,
    active: Cell<Instant>,
    failure: RefCell<Option<Failure>>,
    close: Signal,
    _permit: ConnectionPermit,
}

impl Conn {
    /// The series changes with what becomes known.
    pub fn counted_as(&self, series: &Arc<Series>) {
        if !self.established.get() {
            self.series.replace(series.clone());
        }
    }

    pub fn judged(&self, verdict: &Verdict) {
        self.counted_as(&verdict.series);
        self.policy.replace(verdict.policy.clone());
    }

    /// Both sides are connected; bytes may flow.
    pub fn establish(&self) {
        self.count(Series::opened);
        self.established.set(true);
    }

    /// Probes are in no series: they are the node's traffic, not the mesh's.
    fn count(&self, what: impl FnOnce(&Series)) {
        if self.via.get() != Via::Probe {
            what(&self.series.borrow());
        }
    }

    pub fn count_from_application(&self, bytes: usize) {
        match self.direction {
            Direction::Outbound => self.add_sent(bytes),
            Direction::Inbound => self.add_received(bytes),
        }
    }

    pub fn count_to_application(&self, bytes: usize) {
        match self.direction {
            Direction::Outbound => self.add_received(bytes),
            Direction::Inbound => self.add_sent(bytes),
        }
    }

    pub fn add_sent(&self, bytes: usize) {
        self.sent_bytes.set(self.sent_bytes.get() + bytes as u64);
    }

    pub fn add_received(&self, bytes: usize) {
        self.received_bytes.set(self.received_bytes.get() + bytes as u64);
    }

    /// Ends the connection from outside its task. The first reason stays.
    pub fn kill(&self, failure: Failure) {
        self.failure.borrow_mut().get_or_insert(failure);
        self.close.raise();
    }

    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Runs the connection until it ends by itself or is killed.
    pub async fn run<T>(&self, serve: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let result = tokio::select! {
            biased;
            () = self.close.wait() => Err(self.failure.borrow().clone().unwrap_or_else(|| Failure::reset("closed"))),
            result = serve => result,
        };
        if let Err(failure) = &result {
            self.failure.borrow_mut().get_or_insert(failure.clone());
        }
        result
    }

    /// Adds to the series what has moved since the last time.
    fn flush(&self, now: Instant) {
        let moved = (self.sent_bytes.get(), self.received_bytes.get());
        let before = self.flushed.replace(moved);
        if moved != before {
            self.count(|series| series.moved(moved.0 - before.0, moved.1 - before.1));
            self.active.set(now);
        }
    }

    fn entry(&self) -> LogEntry {
        let duration = self.opened.elapsed();
        let failure = self.failure.borrow();
        let series = self.series.borrow().clone();
        let entry = ConnectionEntry {
            id: self.id,
            workload: self.workload.uid.clone(),
            direction: self.direction,
            series: Some(series.id),
            source: self.source.to_string(),
            destination: self.destination.to_string(),
            opened_s: unix_time().as_secs_f64() - duration.as_secs_f64(),
            via: self.via.get(),
            hbone_address: self.hbone_address.get().map(|address| address.to_string()),
            source_identity: self.source_identity.borrow().clone(),
            destination_identity: self.destination_identity.borrow().clone(),
            sent_bytes: self.sent_bytes.get(),
            received_bytes: self.received_bytes.get(),
            duration_s: duration.as_secs_f64(),
            flag: failure.as_ref().and_then(|failure| failure.flag).map(Flag::as_str),
            error: failure.as_ref().map(|failure| failure.text().to_owned()),
            policy: self.policy.borrow().clone(),
            socket: self.socket.get(),
        };
        LogEntry { entry, series }
    }
}

/// Time since the epoch; zero if the clock is set before it.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The open connections, and the log of those that ended.
#[derive(Default)]
pub struct Connections {
    open: RefCell<HashMap<u64, Rc<Conn>>>,
    log: RefCell<Vec<LogEntry>>,
    opened: Cell<u64>,
}

impl Connections {
    pub fn get(&self, id: u64) -> Option<Rc<Conn>> {
        self.open.borrow().get(&id).cloned()
    }

    pub fn flush(&self) {
        let now = Instant::now();
        for conn in self.open.borrow().values() {
            conn.flush(now);
        }
    }

    pub fn list(&self) -> Vec<LogEntry> {
        self.open.borrow().values().map(|conn| conn.entry()).collect()
    }

    pub fn take_log(&self) -> Vec<LogEntry> {
        self.log.take()
    }

    pub fn matching(&self, wanted: impl Fn(&Conn) -> bool) -> Vec<Rc<Conn>> {
        self.open.borrow().values().filter(|conn| wanted(conn)).cloned().collect()
    }

    /// The connection on which nothing has moved for longest.
    pub fn most_idle(&self) -> Option<Rc<Conn>> {
        self.open.borrow().values().min_by_key(|conn| conn.active.get()).cloned()
    }
}

impl Conn {
    /// When bytes last moved, to the second.
    pub fn active(&self) -> Instant {
        self.active.get()
    }
}

/// Records the end of its connection when dropped, however that comes.
pub struct ConnGuard {
    worker: Rc<Worker>,
    conn: Rc<Conn>,
}

impl Deref for ConnGuard {
    type Target = Rc<Conn>;

    fn deref(&self) -> &Rc<Conn> {
        &self.conn
    }
}

impl Worker {
    /// None: the limit of connections is reached.
    pub fn open_connection(self: &Rc<Self>, opening: Opening) -> Option<ConnGuard> {
        let permit = ConnectionPermit::take(&self.usage, &opening.workload.spec().usage, self.settings().max_connections)?;
        let sequence = self.connections.opened.get() + 1;
        self.connections.opened.set(sequence);
        let series = match opening.direction {
            Direction::Inbound => opening.workload.spec().inbound.clone(),
            Direction::Outbound => opening.workload.spec().outbound.clone(),
        };
        let now = Instant::now();
        let conn = Rc::new(Conn {
            // Unique among workers without asking them; small enough for any JSON reader.
            id: sequence * self.worker_count + self.index as u64,
            workload: opening.workload,
            direction: opening.direction,
            via: Cell::new(opening.via),
            source: opening.source,
            destination: opening.destination,
            hbone_address: Cell::new(None),
            socket: Cell::new(None),
            source_identity: RefCell::new(opening.source_identity),
            destination_identity: RefCell::new(None),
            flow: RefCell::new(None),
            half_closed: Cell::new(false),
            opened: now,
            series: RefCell::new(series),
            policy: RefCell::new(None),
            established: Cell::new(false),
            ended: Cell::new(false),
            sent_bytes: Cell::new(0),
            received_bytes: Cell::new(0),
            flushed: Cell::new((0, 0)),
            active: Cell::new(now),
            failure: RefCell::new(None),
            close: Signal::default(),
            _permit: permit,
        });
        self.connections.open.borrow_mut().insert(conn.id, conn.clone());
        Some(ConnGuard { worker: self.clone(), conn })
    }

    fn connection_ended(&self, conn: &Conn) {
        conn.ended.set(true);
        self.connections.open.borrow_mut().remove(&conn.id);
        self.leave_verdict(conn);
        conn.flush(Instant::now());
        let failure = conn.failure.borrow();
        if conn.established.get() {
            conn.count(Series::closed);
        } else if let Some(flag) = failure.as_ref().and_then(|failure| failure.flag) {
            conn.count(|series| series.failed(flag));
        }
        if let Some(failure) = failure.as_ref().filter(|failure| failure.flag.is_some()) {
            log!("connection {} {} -> {}: {failure}", conn.id, conn.source, conn.destination);
        }
        drop(failure);
        if !self.usage.log_entries.try_add(1, MAX_LOG_ENTRIES) {
            self.usage.shed(Shed::LogEntries);
            return;
        }
        let mut batch = self.connections.log.borrow_mut();
        batch.push(conn.entry());
        if batch.len() >= LOG_BATCH {
            self.tell_control(ToControl::Closed(std::mem::take(&mut *batch)));
        }
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        self.worker.connection_ended(&self.conn);
    }
}
