//! A worker: one thread with its own share of the connections, and no locks towards the others.

mod accept;
mod connections;
mod decisions;
mod routes;
mod sweep;
mod verdicts;
mod workload;

pub use connections::{Conn, ConnGuard, Opening, unix_time};
pub use workload::{Workload, WorkloadSerial};

use crate::buffers::Buffers;
use crate::health::HealthTable;
use crate::limits::Usage;
use crate::log::log;
use crate::messages::{IdentityConfigs, ToControl, ToWorker, WorkloadSpec};
use crate::namespaces::SocketMaker;
use crate::pool::Pool;
use crate::protocol::{Settings, seconds};
use crate::service_manager::Beats;
use crate::tunnel::Tunnels;
use connections::Connections;
use decisions::Decisions;
use hbone_tls::Trust;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// What every worker is given.
#[derive(Clone)]
pub struct Shared {
    pub worker_count: u64,
    pub usage: Arc<Usage>,
    pub trust: Trust,
    pub control: UnboundedSender<ToControl>,
    pub sockets: SocketMaker,
    pub beats: Arc<Beats>,
}

/// The deadlines of `Settings` as durations.
#[derive(Clone, Copy)]
pub struct Deadlines {
    pub decision: Duration,
    pub connect: Duration,
    /// For one endpoint to give a sign of life, while there are others.
    pub attempt: Duration,
    pub handshake: Duration,
    pub preface: Duration,
    pub answer: Duration,
}

pub struct Worker {
    pub index: usize,
    pub worker_count: u64,
    pub usage: Arc<Usage>,
    pub trust: Trust,
    pub connections: Connections,
    pub pool: Pool,
    pub health: HealthTable,
    pub tunnels: Tunnels,
    pub buffers: Buffers,
    control: UnboundedSender<ToControl>,
    sockets: SocketMaker,
    beats: Arc<Beats>,
    settings: RefCell<Arc<Settings>>,
    deadlines: Cell<Deadlines>,
    decisions: Decisions,
    workloads: RefCell<HashMap<Arc<str>, Rc<Workload>>>,
    /// Those that drain.
    leaving: RefCell<Vec<Rc<Workload>>>,
    workloads_seen: Cell<u64>,
    identities: RefCell<HashMap<Arc<str>, Arc<IdentityConfigs>>>,
    /// Closed to accept and turn away one connection when descriptors have run out.
    reserve: RefCell<Option<std::fs::File>>,
    random: Cell<u64>,
}

impl Worker {
    pub fn new(index: usize, shared: Shared) -> Rc<Self> {
        let settings = Settings::default();
        Rc::new(Self {
            index,
            worker_count: shared.worker_count,
            usage: shared.usage,
            trust: shared.trust,
            connections: Connections::default(),
            pool: Pool::default(),
            health: HealthTable::default(),
            tunnels: Tunnels::default(),
            buffers: Buffers::default(),
            control: shared.control,
            sockets: shared.sockets,
            beats: shared.beats,
            deadlines: Cell::new(Deadlines::of(&settings)),
            settings: RefCell::new(Arc::new(settings)),
            decisions: Decisions::default(),
            workloads: RefCell::default(),
            leaving: RefCell::default(),
            workloads_seen: Cell::new(0),
            identities: RefCell::default(),
            reserve: RefCell::new(accept::reserve()),
            // From the system, so that no two workers or nodes draw the same; zero would stay zero.
            random: Cell::new(RandomState::new().build_hasher().finish() | 1),
        })
    }

    /// Serves until the process ends.
    pub async fn run(self: Rc<Self>, mut messages: UnboundedReceiver<ToWorker>) {
        let sweeps = sweep::run(self.clone());
        tokio::pin!(sweeps);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.handle(message),
                    None => return,
                },
                () = &mut sweeps => return,
            }
        }
    }

    fn handle(self: &Rc<Self>, message: ToWorker) {
        match message {
            ToWorker::Settings(settings) => {
                self.deadlines.set(Deadlines::of(&settings));
                self.settings.replace(settings);
            }
            ToWorker::Workload(spec) => self.set_workload(spec),
            ToWorker::RemoveWorkload { uid, drain_s } => self.remove_workload(&uid, seconds(drain_s)),
            ToWorker::Identity(identity, configs) => self.set_identity(identity, configs),
            ToWorker::ForgetIdentity(identity) => {
                self.identities.borrow_mut().remove(&identity);
                self.pool.recheck();
            }
            ToWorker::TrustChanged => self.tunnels.verify_again(),
            ToWorker::Answer { token, answer } => self.answered(token, answer),
            ToWorker::Trim(workload) => self.let_go_of_unused(workload.as_deref()),
            ToWorker::Flush { request } => {
                self.connections.flush();
                self.tell_control(ToControl::Flushed { request });
            }
            ToWorker::List { request } => self.tell_control(ToControl::Listed { request, entries: self.connections.list() }),
        }
    }

    /// A workload, new or again. One of another generation is another pod: the old one and all that is open of it goes at once.
    fn set_workload(self: &Rc<Self>, spec: Arc<WorkloadSpec>) {
        let known = self.workloads.borrow().get(&spec.uid).cloned();
        if let Some(workload) = known {
            if workload.spec().generation == spec.generation {
                let listeners_stay = workload.has_listeners(&spec);
                workload.replace_spec(spec);
                if !listeners_stay {
                    workload.stop_accepting();
                    self.listen(&workload);
                }
                return;
            }
            self.remove_workload(&spec.uid, Duration::ZERO);
        }
        let serial = self.workloads_seen.get() + 1;
        self.workloads_seen.set(serial);
        let workload = Rc::new(Workload::new(spec, WorkloadSerial(serial)));
        self.workloads.borrow_mut().insert(workload.uid.clone(), workload.clone());
        self.listen(&workload);
    }

    fn listen(self: &Rc<Self>, workload: &Rc<Workload>) {
        for (kind, socket) in &workload.spec().listeners {
            match accept::listener(*kind, socket) {
                Ok(listener) => workload.accepts_in(self.spawn(accept::run(self.clone(), workload.clone(), *kind, listener))),
                Err(error) => log!("{}: cannot accept {kind:?} connections: {error}", workload.uid),
            }
        }
    }

    fn remove_workload(self: &Rc<Self>, uid: &str, drain: Duration) {
        let removed = self.workloads.borrow_mut().remove(uid);
        if let Some(workload) = removed {
            workload.remove();
            self.tunnels.drain(&workload);
            self.pool.forget_workload(&workload);
            self.leaving.borrow_mut().push(workload.clone());
            return self.close_after(workload, drain);
        }
        // Told again of one that drains: the shorter time holds.
        let leaving: Vec<_> = self.leaving.borrow().iter().filter(|workload| *workload.uid == *uid).cloned().collect();
        for workload in leaving {
            self.close_after(workload, drain);
        }
    }

    fn close_after(self: &Rc<Self>, workload: Rc<Workload>, drain: Duration) {
        if drain.is_zero() {
            return self.close_workload(&workload);
        }
        let worker = self.clone();
        self.spawn(async move {
            tokio::time::sleep(drain).await;
            worker.close_workload(&workload);
        });
    }

    fn close_workload(&self, workload: &Rc<Workload>) {
        self.leaving.borrow_mut().retain(|other| !Rc::ptr_eq(other, workload));
        for conn in self.connections.matching(|conn| Rc::ptr_eq(&conn.workload, workload)) {
            conn.kill(crate::failure::Failure::reset("the workload was removed"));
        }
        self.tunnels.close(workload);
        if !self.workloads.borrow().contains_key(&workload.uid) {
            self.forget_answers_of(&workload.uid);
        }
    }

    /// Another certificate of an identity; the same one, told again by an agent that restarted, changes nothing.
    fn set_identity(&self, identity: Arc<str>, configs: Arc<IdentityConfigs>) {
        let mut identities = self.identities.borrow_mut();
        if identities.get(&identity).is_none_or(|before| before.certificate != configs.certificate) {
            identities.insert(identity, configs);
            self.pool.recheck();
        }
    }

    /// The TLS configurations of an identity, if the agent gave it.
    pub fn identity(&self, identity: &str) -> Option<Arc<IdentityConfigs>> {
        self.identities.borrow().get(identity).cloned()
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    pub fn deadlines(&self) -> Deadlines {
        self.deadlines.get()
    }

    /// Breaks ties among equals, names traces (xorshift, never 0); nothing secret hangs on it.
    pub fn random(&self) -> u64 {
        let mut next = self.random.get();
        next ^= next << 13;
        next ^= next >> 7;
        next ^= next << 17;
        self.random.set(next);
        next
    }

    pub fn tell_control(&self, message: ToControl) {
        // The control thread ends with the process.
        let _ = self.control.send(message);
    }

    /// Runs a task of this worker. A panic in it ends it alone.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> tokio::task::AbortHandle {
        tokio::task::spawn_local(task).abort_handle()
    }

    /// A new socket in the workload's network namespace.
    pub async fn socket(self: &Rc<Self>, workload: &Rc<Workload>, v6: bool) -> io::Result<socket2::Socket> {
        if let Some(socket) = workload.take_socket(v6) {
            return Ok(socket);
        }
        let namespace = workload.spec().network_namespace.clone();
        let mut made = self.sockets.make(namespace, v6, workload::STOCK).await?;
        let socket = made.pop().ok_or_else(|| io::Error::other("no socket was made"))?;
        workload.put_sockets(v6, made);
        Ok(socket)
    }
}

impl Deadlines {
    fn of(settings: &Settings) -> Self {
        Self {
            decision: seconds(settings.decision_deadline_s),
            connect: seconds(settings.connect_deadline_s),
            attempt: seconds(settings.connect_attempt_s),
            handshake: seconds(settings.handshake_deadline_s),
            preface: seconds(settings.preface_deadline_s),
            answer: seconds(settings.answer_deadline_s),
        }
    }
}
