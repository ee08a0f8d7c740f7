//! What the control thread and the workers tell each other.
//!
//! The channels are not bounded by themselves: questions are bounded by the limits on connections and held answers, log
//! entries by `MAX_LOG_ENTRIES`, and all that comes from the agent by the agent.

use crate::answers::{Answer, Question};
use crate::limits::WorkloadUsage;
use crate::protocol::{ConnectionEntry, ListenerKind, Settings};
use crate::series::Series;
use hbone_tls::{ClientConfig, ServerConfig};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Log entries that may wait for the agent; more are shed and counted.
pub const MAX_LOG_ENTRIES: u64 = 65_536;

/// A workload to serve, with its descriptors.
#[derive(Clone)]
pub struct WorkloadSpec {
    pub uid: Arc<str>,
    pub generation: u64,
    pub identity: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub network_namespace: Arc<OwnedFd>,
    pub listeners: Vec<(ListenerKind, Arc<OwnedFd>)>,
    pub usage: Arc<WorkloadUsage>,
    /// For flows that fail before a decision.
    pub inbound: Arc<Series>,
    pub outbound: Arc<Series>,
    /// What its tunnels say of it, if anything.
    pub baggage: String,
    pub shares_network: bool,
}

/// The TLS configurations of one certificate generation of an identity.
pub struct IdentityConfigs {
    /// The chain, in PEM: tells one generation from another.
    pub certificate: String,
    pub server: ServerConfig,
    pub client: ClientConfig,
}

pub enum ToWorker {
    Settings(Arc<Settings>),
    Workload(Arc<WorkloadSpec>),
    RemoveWorkload {
        uid: Arc<str>,
        drain_s: f64,
    },
    Identity(Arc<str>, Arc<IdentityConfigs>),
    ForgetIdentity(Arc<str>),
    /// The trust in force was replaced: verify the peers of open tunnels again.
    TrustChanged,
    Answer {
        token: u64,
        answer: Answer,
    },
    /// Let go of answers that nobody stands on: those of this workload, or of all.
    Trim(Option<Arc<str>>),
    /// Add what connections have moved to their series, then say so.
    Flush {
        request: u64,
    },
    List {
        request: u64,
    },
}

pub enum ToControl {
    Ask { worker: usize, token: u64, question: Question },
    Forget { worker: usize, tokens: Vec<u64> },
    Closed(Vec<LogEntry>),
    Flushed { request: u64 },
    Listed { request: u64, entries: Vec<LogEntry> },
}

/// An entry keeps its series alive until the agent has been told of both.
pub struct LogEntry {
    pub entry: ConnectionEntry,
    pub series: Arc<Series>,
}
