//! The messages of the decision protocol; `nodeagent/ztunnel/protocol.py` is the Python side of these types.
//!
//! Attributes stay raw JSON: the proxy gives them back and never looks inside.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub const VERSION: u32 = 1;
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

pub type Attributes = Box<RawValue>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerKind {
    Outbound,
    Inbound,
    Hbone,
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    Hbone,
    Plaintext,
    /// By the listener for probes; never asked about.
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Inbound,
    Outbound,
}

// ---- proxy to agent

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromProxy {
    Hello(Hello),
    Held { uid: String, generation: u64, listeners: Vec<ListenerKind> },
    AskRoute { id: u64, workload: Arc<str>, destination: String },
    AskVerdict { id: u64, workload: Arc<str>, destination: String, via: Via, source: String, peer: Option<Arc<str>> },
    Release { ids: Vec<u64> },
    Counters { rows: Vec<CounterRow>, request: Option<u64>, lost_log_entries: u64 },
    Connections { request: u64, open: Vec<ConnectionEntry>, last: bool },
    Closed { entries: Vec<ConnectionEntry> },
    ProxyStatus(ProxyStatus),
}

#[derive(Debug, Serialize)]
pub struct Hello {
    pub protocol: u32,
    pub build: &'static str,
    pub pid: u32,
    pub instance: String,
    pub started_s: f64,
    /// It was told to shut down, and drains.
    pub leaving: bool,
    pub workloads: Vec<HeldWorkload>,
}

#[derive(Debug, Serialize)]
pub struct HeldWorkload {
    pub uid: String,
    pub generation: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct CounterRow {
    pub series: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Arc<RawValue>>,
    pub opened: u64,
    pub closed: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
pub struct ConnectionEntry {
    pub id: u64,
    pub workload: Arc<str>,
    pub direction: Direction,
    pub series: Option<u64>,
    pub source: String,
    pub destination: String,
    pub opened_s: f64,
    pub via: Via,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hbone_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_identity: Option<Arc<str>>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub duration_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct ProxyStatus {
    pub request: u64,
    pub connections: u64,
    pub tunnels_in: u64,
    pub tunnels_out: u64,
    pub held_routes: u64,
    pub held_verdicts: u64,
    pub waiting_questions: u64,
    pub resident_bytes: u64,
    pub shed: BTreeMap<&'static str, u64>,
}

// ---- agent to proxy

#[derive(Debug)]
pub enum ToProxy {
    Welcome(Welcome),
    Synced,
    Workload(SetWorkload),
    RemoveWorkload(RemoveWorkload),
    Identity(SetIdentity),
    ForgetIdentity(ForgetIdentity),
    Trust(SetTrust),
    Route(AnswerRoute),
    Verdict(AnswerVerdict),
    Report(Request),
    ListConnections(Request),
    Shutdown(Shutdown),
}

/// Deadlines in seconds and limits; the defaults are those of the Python side.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub decision_deadline_s: f64,
    pub connect_deadline_s: f64,
    pub connect_attempt_s: f64,
    pub handshake_deadline_s: f64,
    pub preface_deadline_s: f64,
    pub answer_deadline_s: f64,
    pub drain_s: f64,
    pub idle_tunnel_s: f64,
    pub half_closed_s: f64,
    pub ping_interval_s: f64,
    pub ping_deadline_s: f64,
    pub connect_tries: u32,
    pub eject_after_failures: u32,
    pub eject_s: f64,
    pub max_connections: u64,
    pub max_tunnels: u64,
    pub max_tunnels_per_source: u64,
    pub max_streams_per_tunnel: u32,
    pub max_pool_tunnels_per_pair: usize,
    pub max_held_answers: usize,
    pub max_buffered_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            decision_deadline_s: 5.0,
            connect_deadline_s: 5.0,
            connect_attempt_s: 1.2,
            handshake_deadline_s: 5.0,
            preface_deadline_s: 5.0,
            answer_deadline_s: 10.0,
            drain_s: 30.0,
            idle_tunnel_s: 90.0,
            half_closed_s: 3600.0,
            ping_interval_s: 10.0,
            ping_deadline_s: 20.0,
            connect_tries: 3,
            eject_after_failures: 3,
            eject_s: 10.0,
            max_connections: 60_000,
            max_tunnels: 20_000,
            max_tunnels_per_source: 4096,
            max_streams_per_tunnel: 100,
            max_pool_tunnels_per_pair: 4,
            max_held_answers: 65_536,
            max_buffered_bytes: 1 << 30,
        }
    }
}

impl Settings {
    /// Refuses values that no deadline or limit can have.
    pub fn checked(self) -> Result<Self, String> {
        let deadlines = [
            ("decision_deadline_s", self.decision_deadline_s),
            ("connect_deadline_s", self.connect_deadline_s),
            ("connect_attempt_s", self.connect_attempt_s),
            ("handshake_deadline_s", self.handshake_deadline_s),
            ("preface_deadline_s", self.preface_deadline_s),
            ("answer_deadline_s", self.answer_deadline_s),
            ("drain_s", self.drain_s),
            ("idle_tunnel_s", self.idle_tunnel_s),
            ("half_closed_s", self.half_closed_s),
            ("ping_interval_s", self.ping_interval_s),
            ("ping_deadline_s", self.ping_deadline_s),
            ("eject_s", self.eject_s),
        ];
        if let Some((name, _)) = deadlines.into_iter().find(|(_, value)| !(0.0..=1e9).contains(value)) {
            return Err(format!("setting {name} is not between 0 and 1e9 seconds"));
        }
        if self.connect_tries == 0 || self.max_streams_per_tunnel == 0 || self.max_pool_tunnels_per_pair == 0 {
            return Err("connect_tries, max_streams_per_tunnel and max_pool_tunnels_per_pair are 1 at least".into());
        }
        Ok(self)
    }
}

/// A duration of settings that were checked, or of a message: what is out of range counts as zero.
pub fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
pub struct Welcome {
    pub protocol: u32,
    pub settings: Settings,
}

#[derive(Debug, Deserialize)]
pub struct SetWorkload {
    pub uid: String,
    pub generation: u64,
    pub identity: String,
    pub addresses: Vec<std::net::IpAddr>,
    pub listeners: Vec<ListenerKind>,
    pub inbound_attributes: Attributes,
    pub outbound_attributes: Attributes,
    #[serde(default)]
    pub baggage: String,
    /// Its network is others' as well: who its applications see is the host.
    #[serde(default)]
    pub shares_network: bool,
}

#[derive(Debug, Deserialize)]
pub struct RemoveWorkload {
    pub uid: String,
    pub drain_s: f64,
}

#[derive(Deserialize)]
pub struct SetIdentity {
    pub identity: String,
    pub chain: String,
    pub key: String,
}

impl std::fmt::Debug for SetIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SetIdentity({}, key withheld)", self.identity)
    }
}

#[derive(Debug, Deserialize)]
pub struct ForgetIdentity {
    pub identity: String,
}

#[derive(Debug, Deserialize)]
pub struct Revocation {
    pub identity: String,
    pub issued_before_s: i64,
}

#[derive(Debug, Deserialize)]
pub struct SetTrust {
    pub roots: HashMap<String, String>,
    #[serde(default)]
    pub revoked: Vec<Revocation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TunnelTo {
    pub identity: String,
    pub authority: String,
    pub expect: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Endpoint {
    pub uid: String,
    pub address: std::net::SocketAddr,
    pub attributes: Attributes,
    #[serde(default)]
    pub tunnel: Option<TunnelTo>,
    #[serde(default)]
    pub tier: i64,
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

#[derive(Debug)]
pub enum Route {
    Pass(Pass),
    Refuse(Refuse),
    Forward(Forward),
}

#[derive(Debug, Deserialize)]
pub struct Pass {
    pub attributes: Attributes,
}

#[derive(Debug, Deserialize)]
pub struct Refuse {
    pub flag: String,
    pub reason: String,
    pub attributes: Attributes,
}

#[derive(Debug, Deserialize)]
pub struct Forward {
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug)]
pub struct AnswerRoute {
    pub id: u64,
    pub route: Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    AnySource,
    ThisSource,
}

#[derive(Debug, Deserialize)]
pub struct AnswerVerdict {
    pub id: u64,
    pub allow: bool,
    pub holds: Holds,
    pub reason: String,
    pub attributes: Attributes,
    #[serde(default)]
    pub policy: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Request {
    pub request: u64,
}

#[derive(Debug, Deserialize)]
pub struct Shutdown {
    pub drain_s: f64,
}

/// The body of a frame, without its length.
pub fn encode(message: &FromProxy) -> Vec<u8> {
    serde_json::to_vec(message).expect("every message is a plain tree of strings and numbers")
}

/// Parses a frame's body in two steps, type first: serde's tagged enums cannot hold raw JSON.
pub fn decode(body: &[u8]) -> Result<ToProxy, String> {
    #[derive(Deserialize)]
    struct Tag<'a> {
        #[serde(borrow, rename = "type")]
        kind: std::borrow::Cow<'a, str>,
    }
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let tag: Tag<'_> = parse(text)?;
    Ok(match &*tag.kind {
        "welcome" => ToProxy::Welcome(parse(text)?),
        "synced" => ToProxy::Synced,
        "workload" => ToProxy::Workload(parse(text)?),
        "remove_workload" => ToProxy::RemoveWorkload(parse(text)?),
        "identity" => ToProxy::Identity(parse(text)?),
        "forget_identity" => ToProxy::ForgetIdentity(parse(text)?),
        "trust" => ToProxy::Trust(parse(text)?),
        "route" => ToProxy::Route(decode_route(text)?),
        "verdict" => ToProxy::Verdict(parse(text)?),
        "report" => ToProxy::Report(parse(text)?),
        "list_connections" => ToProxy::ListConnections(parse(text)?),
        "shutdown" => ToProxy::Shutdown(parse(text)?),
        other => return Err(format!("unknown message type {other:?}")),
    })
}

fn decode_route(text: &str) -> Result<AnswerRoute, String> {
    #[derive(Deserialize)]
    struct Outer<'a> {
        id: u64,
        #[serde(borrow)]
        route: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Tag<'a> {
        #[serde(borrow, rename = "do")]
        action: std::borrow::Cow<'a, str>,
    }
    let outer: Outer<'_> = parse(text)?;
    let inner = outer.route.get();
    let tag: Tag<'_> = parse(inner)?;
    let route = match &*tag.action {
        "pass" => Route::Pass(parse(inner)?),
        "refuse" => Route::Refuse(parse(inner)?),
        "forward" => Route::Forward(parse(inner)?),
        other => return Err(format!("unknown route {other:?}")),
    };
    if matches!(&route, Route::Forward(forward) if forward.endpoints.is_empty()) {
        return Err("a forward without endpoints".into());
    }
    Ok(AnswerRoute { id: outer.id, route })
}

/// The text of a serde error names fields and positions, never values: a key cannot leak through it.
fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{} at column {}", category(&error), error.column()))
}

fn category(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Io => "unreadable",
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data => "a field is missing or of the wrong type",
        serde_json::error::Category::Eof => "cut short",
    }
}
