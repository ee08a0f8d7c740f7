//! Questions and answers as the threads of the proxy pass them on: interned, shared, without JSON.

use crate::failure::Flag;
use crate::protocol::{FromProxy, Holds, Via};
use crate::series::Series;
use hbone_tls::Identity;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a verdict is about, apart from the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub workload: Arc<str>,
    pub destination: SocketAddr,
    pub via: Via,
    /// The SPIFFE id of the verified certificate; None = unauthenticated.
    pub peer: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    Route { workload: Arc<str>, destination: SocketAddr },
    Verdict { flow: Flow, source: IpAddr },
}

impl Question {
    pub fn workload(&self) -> &Arc<str> {
        match self {
            Question::Route { workload, .. } => workload,
            Question::Verdict { flow, .. } => &flow.workload,
        }
    }

    pub fn is_route(&self) -> bool {
        matches!(self, Question::Route { .. })
    }

    pub fn message(&self, id: u64) -> FromProxy {
        match self {
            Question::Route { workload, destination } => {
                FromProxy::AskRoute { id, workload: workload.clone(), destination: destination.to_string() }
            }
            Question::Verdict { flow, source } => FromProxy::AskVerdict {
                id,
                workload: flow.workload.clone(),
                destination: flow.destination.to_string(),
                via: flow.via,
                source: source.to_string(),
                peer: flow.peer.clone(),
            },
        }
    }
}

/// All that a tunnel of the pool must agree with: it is used for nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelTarget {
    pub endpoint_uid: Arc<str>,
    pub address: SocketAddr,
    /// Who dials.
    pub identity: Arc<str>,
    /// Who may answer. One that is no SPIFFE id is nobody.
    pub expect: Vec<Identity>,
}

/// A stream in a tunnel: all ports of an endpoint are reached by the same tunnels.
pub struct Through {
    pub target: Arc<TunnelTarget>,
    pub authority: String,
}

impl Through {
    /// Whether that is the way to a waypoint: it is asked for another address than its own.
    pub fn by_waypoint(&self) -> bool {
        self.authority.parse::<SocketAddr>().is_ok_and(|asked| asked.ip() != self.target.address.ip())
    }
}

/// An endpoint of a `forward`.
pub struct Endpoint {
    pub uid: Arc<str>,
    pub address: SocketAddr,
    pub series: Arc<Series>,
    /// None = in plaintext.
    pub tunnel: Option<Through>,
    pub tier: i64,
    pub weight: u32,
}

pub enum Route {
    Pass(Arc<Series>),
    Refuse { flag: Flag, reason: String, series: Arc<Series> },
    Forward(Vec<Endpoint>),
}

pub struct Verdict {
    pub allow: bool,
    pub holds: Holds,
    pub reason: String,
    pub policy: Option<String>,
    pub series: Arc<Series>,
}

#[derive(Clone)]
pub enum Answer {
    Route(Arc<Route>),
    Verdict(Arc<Verdict>),
    /// Too many answers are held already.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_waypoint(address: &str, authority: &str) -> bool {
        let target = TunnelTarget {
            endpoint_uid: "uid".into(),
            address: address.parse().unwrap(),
            identity: "spiffe://td/ns/a/sa/b".into(),
            expect: Vec::new(),
        };
        Through { target: target.into(), authority: authority.into() }.by_waypoint()
    }

    #[test]
    fn a_waypoint_is_asked_for_what_is_elsewhere() {
        assert!(by_waypoint("10.0.0.9:15008", "10.96.0.1:80"));
        assert!(by_waypoint("10.0.0.9:15008", "[fd96::1]:80"));
        assert!(!by_waypoint("10.0.0.9:15008", "10.0.0.9:8080"));
        assert!(!by_waypoint("10.0.0.9:15008", "cart.shop.svc.cluster.local:80"), "a gateway of another network carries on");
    }
}
