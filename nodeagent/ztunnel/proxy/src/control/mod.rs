//! The control thread: speaks the decision protocol and hands what the agent says to the workers.

mod held;
mod link;
mod reports;
mod session;
mod unsent;

use crate::answers::{Answer, Question};
use crate::limits::{Shed, Usage};
use crate::log::log;
use crate::messages::{ToControl, ToWorker, WorkloadSpec};
use crate::protocol::Settings;
use crate::series::SeriesTable;
use crate::service_manager::ServiceManager;
use hbone_tls::Trust;
use held::{Effect, Held, Holder};
use link::Link;
use reports::{Reports, Sending};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

const REDIAL: Duration = Duration::from_millis(100);
/// An agent that accepts and says nothing for this long is hung: its successor may be listening already.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);
const LOG_INTERVAL: Duration = Duration::from_millis(100);
const TRIM_INTERVAL: Duration = Duration::from_millis(100);

/// Who this process is, as `hello` says it.
pub struct Process {
    pub instance: String,
    pub started_s: f64,
}

pub struct Control {
    socket: PathBuf,
    process: Process,
    workers: Vec<UnboundedSender<ToWorker>>,
    usage: Arc<Usage>,
    trust: Trust,
    service_manager: ServiceManager,
    settings: Arc<Settings>,
    held: Held,
    series: SeriesTable,
    workloads: BTreeMap<Arc<str>, Arc<WorkloadSpec>>,
    identities: HashSet<Arc<str>>,
    reports: Reports,
    link: Option<Link>,
    session: Session,
    redial_at: Instant,
    away_because: Option<String>,
    trimmed_at: Option<Instant>,
    /// When to exit even if connections are open.
    exit_at: Option<Instant>,
}

/// How far the session with the agent has come.
#[derive(Default)]
struct Session {
    /// Until when `welcome` must have come; None once it has.
    welcome_by: Option<Instant>,
    /// What the agent named since `hello`; gone after `synced`.
    named: Option<Named>,
}

#[derive(Default)]
struct Named {
    workloads: HashSet<Arc<str>>,
    identities: HashSet<Arc<str>>,
}

impl Control {
    pub fn new(
        socket: PathBuf,
        process: Process,
        workers: Vec<UnboundedSender<ToWorker>>,
        usage: Arc<Usage>,
        trust: Trust,
        service_manager: ServiceManager,
    ) -> Self {
        let reports = Reports::new(workers.len());
        Self {
            socket,
            process,
            workers,
            usage,
            trust,
            service_manager,
            settings: Arc::default(),
            held: Held::default(),
            series: SeriesTable::default(),
            workloads: BTreeMap::new(),
            identities: HashSet::new(),
            reports,
            link: None,
            session: Session::default(),
            redial_at: Instant::now(),
            away_because: None,
            trimmed_at: None,
            exit_at: None,
        }
    }

    /// Serves until `shutdown` has drained.
    pub async fn run(mut self, mut from_workers: UnboundedReceiver<ToControl>) {
        let mut tick = tokio::time::interval(LOG_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.drained() {
            let (wanted, redial_at) = (self.link.is_none(), self.redial_at);
            let Self { link, socket, .. } = &mut self;
            tokio::select! {
                message = turn(link.as_mut()) => self.agent_says(message),
                dialled = dial(wanted, redial_at, socket) => self.start_session(dialled),
                Some(message) = from_workers.recv() => {
                    self.worker_says(message);
                    while let Ok(message) = from_workers.try_recv() {
                        self.worker_says(message);
                    }
                }
                _ = tick.tick() => {
                    self.service_manager.tick(Instant::now());
                    self.give_up_without_welcome(Instant::now());
                    self.report_what_came();
                }
            }
        }
        self.last_report(&mut from_workers).await;
    }

    /// What the last connections left behind, as far as the agent takes it without waiting.
    async fn last_report(&mut self, from_workers: &mut UnboundedReceiver<ToControl>) {
        let until = tokio::time::Instant::now() + LOG_INTERVAL * 2;
        while let Ok(Some(message)) = tokio::time::timeout_at(until, from_workers.recv()).await {
            self.worker_says(message);
        }
        if let Some(link) = &mut self.link {
            self.reports.send_log(&mut self.series, &self.usage, link);
            self.reports.send_counters(Sending::Now, &mut self.series, &self.usage, link);
            // The agent may be gone already: then there is nobody to tell.
            let _ = link.flush();
        }
    }

    fn drained(&self) -> bool {
        self.exit_at.is_some_and(|at| self.usage.connections.get() == 0 || Instant::now() >= at)
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for worker in &self.workers {
            // A worker ends only with the process.
            let _ = worker.send(message());
        }
    }

    fn worker_says(&mut self, message: ToControl) {
        match message {
            ToControl::Ask { worker, token, question } => self.ask(Holder { worker, token }, question),
            ToControl::Forget { worker, tokens } => {
                let effects = self.held.forget(worker, &tokens);
                self.apply(effects);
            }
            ToControl::Closed(entries) => self.reports.closed(entries),
            ToControl::Flushed { request } => {
                if self.reports.flushed(request) {
                    self.send_report(request);
                }
            }
            ToControl::Listed { request, entries } => {
                if let Some(link) = &mut self.link {
                    self.reports.listed(request, entries, &mut self.series, link);
                }
            }
        }
    }

    fn ask(&mut self, holder: Holder, question: Question) {
        let effects = self.held.ask(holder, question, self.settings.max_held_answers);
        self.apply(effects);
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                // Without a session nothing is lost: all that is held is asked again when the next one starts.
                Effect::Send(message) => self.send(&message),
                Effect::Tell(holder, answer) => {
                    if matches!(answer, Answer::Full) {
                        self.usage.shed(Shed::HeldAnswers);
                    }
                    let _ = self.workers[holder.worker].send(ToWorker::Answer { token: holder.token, answer });
                }
                Effect::Trim(workload) => self.trim_workers(&workload),
            }
        }
    }

    /// Not for each question of a flood: it makes every worker look through all that it holds.
    fn trim_workers(&mut self, workload: &Option<Arc<str>>) {
        if self.trimmed_at.is_none_or(|at| at.elapsed() >= TRIM_INTERVAL) {
            self.trimmed_at = Some(Instant::now());
            self.tell_all(|| ToWorker::Trim(workload.clone()));
        }
    }

    fn send(&mut self, message: &crate::protocol::FromProxy) {
        if let Some(link) = &mut self.link {
            link.queue(&crate::protocol::encode(message), Vec::new());
        }
    }

    fn give_up_without_welcome(&mut self, now: Instant) {
        if self.session.welcome_by.is_some_and(|by| now >= by) {
            self.end_session("it accepts, and says no welcome");
        }
    }

    fn report_what_came(&mut self) {
        let Some(link) = self.link.as_mut().filter(|_| self.session.welcome_by.is_none()) else {
            return;
        };
        self.reports.send_log(&mut self.series, &self.usage, link);
        self.reports.send_counters(Sending::WhenDue, &mut self.series, &self.usage, link);
    }

    fn send_report(&mut self, request: u64) {
        let (routes, verdicts) = self.held.count();
        let status = self.reports.status(request, &self.usage, (routes, verdicts, self.held.waiting()));
        if let Some(link) = &mut self.link {
            self.reports.send_counters(Sending::Answer(request), &mut self.series, &self.usage, link);
            link.queue(&crate::protocol::encode(&status), Vec::new());
        }
    }

    fn end_session(&mut self, reason: &str) {
        // A session that fails ten times a second for one reason is said once.
        if self.away_because.as_deref() != Some(reason) {
            log!("the agent is away: {reason}");
            self.away_because = Some(reason.to_owned());
        }
        if let Some(link) = self.link.take() {
            self.reports.end_session(&link, &mut self.series, &self.usage);
        }
        self.redial_at = Instant::now() + REDIAL;
        self.session = Session::default();
    }
}

async fn turn(link: Option<&mut Link>) -> std::io::Result<(crate::protocol::ToProxy, Vec<std::os::fd::OwnedFd>)> {
    match link {
        Some(link) => link.turn().await,
        None => std::future::pending().await,
    }
}

async fn dial(wanted: bool, at: Instant, socket: &std::path::Path) -> std::io::Result<Link> {
    if !wanted {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep_until(at.into()).await;
    Link::dial(socket).await
}
