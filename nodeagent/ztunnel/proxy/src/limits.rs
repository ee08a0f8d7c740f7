//! What the whole process has in use, against the limits that the agent set; what is turned away is counted by reason.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Why connections were turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    Connections,
    Tunnels,
    TunnelsOfSource,
    HeldAnswers,
    BufferedBytes,
    Descriptors,
    LogEntries,
}

impl Shed {
    const NAMES: [&'static str; 7] =
        ["connections", "tunnels", "tunnels_of_source", "held_answers", "buffered_bytes", "descriptors", "log_entries"];

    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// A gauge that many threads add to.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    pub fn remove(&self, amount: u64) {
        self.0.fetch_sub(amount, Relaxed);
    }

    /// Adds `amount` unless that would exceed `limit`.
    pub fn try_add(&self, amount: u64, limit: u64) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |now| now.checked_add(amount).filter(|sum| *sum <= limit)).is_ok()
    }
}

#[derive(Default)]
pub struct Usage {
    pub connections: Gauge,
    pub tunnels_in: Gauge,
    pub tunnels_out: Gauge,
    pub buffered_bytes: Gauge,
    pub log_entries: Gauge,
    shed: [AtomicU64; Shed::NAMES.len()],
    /// The one lock between workers: taken twice in the life of a tunnel, whose handshake costs a thousand times as much.
    tunnels_of_source: Mutex<HashMap<IpAddr, u64>>,
}

impl Usage {
    pub fn shed(&self, reason: Shed) {
        self.shed[reason as usize].fetch_add(1, Relaxed);
    }

    pub fn shed_totals(&self) -> BTreeMap<&'static str, u64> {
        Shed::NAMES.iter().zip(&self.shed).map(|(name, count)| (*name, count.load(Relaxed))).filter(|(_, count)| *count > 0).collect()
    }

    fn enter_source(&self, source: IpAddr, limit: u64) -> bool {
        let mut sources = self.tunnels_of_source.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_default();
        let admitted = *count < limit;
        if admitted {
            *count += 1;
        }
        admitted
    }

    fn leave_source(&self, source: IpAddr) {
        let mut sources = self.tunnels_of_source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&source);
            }
        }
    }
}

/// A place under the limit of connections, given back when dropped.
pub struct ConnectionPermit(Arc<Usage>);

impl ConnectionPermit {
    pub fn take(usage: &Arc<Usage>, limit: u64) -> Option<Self> {
        if usage.connections.try_add(1, limit) {
            return Some(Self(usage.clone()));
        }
        usage.shed(Shed::Connections);
        None
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.connections.remove(1);
    }
}

/// A place under the limits of tunnels, given back when dropped.
pub struct TunnelPermit {
    usage: Arc<Usage>,
    /// The peer's address of an inbound tunnel; None for one that we opened.
    source: Option<IpAddr>,
}

impl TunnelPermit {
    pub fn inbound(usage: &Arc<Usage>, source: IpAddr, limit: u64, limit_of_source: u64) -> Option<Self> {
        if !usage.enter_source(source, limit_of_source) {
            usage.shed(Shed::TunnelsOfSource);
            return None;
        }
        if !usage.tunnels_in.try_add(1, limit) {
            usage.leave_source(source);
            usage.shed(Shed::Tunnels);
            return None;
        }
        Some(Self { usage: usage.clone(), source: Some(source) })
    }

    pub fn outbound(usage: &Arc<Usage>, limit: u64) -> Option<Self> {
        if usage.tunnels_out.try_add(1, limit) {
            return Some(Self { usage: usage.clone(), source: None });
        }
        usage.shed(Shed::Tunnels);
        None
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        match self.source {
            Some(source) => {
                self.usage.tunnels_in.remove(1);
                self.usage.leave_source(source);
            }
            None => self.usage.tunnels_out.remove(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back() {
        let usage = Arc::new(Usage::default());
        let held = ConnectionPermit::take(&usage, 1);
        assert!(held.is_some() && ConnectionPermit::take(&usage, 1).is_none());
        drop(held);
        assert!(ConnectionPermit::take(&usage, 1).is_some());
        assert_eq!(usage.shed_totals(), BTreeMap::from([("connections", 1)]));
    }

    #[test]
    fn one_source_cannot_take_all_tunnels() {
        let usage = Arc::new(Usage::default());
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = TunnelPermit::inbound(&usage, a, 10, 1).unwrap();
        assert!(TunnelPermit::inbound(&usage, a, 10, 1).is_none());
        assert!(TunnelPermit::inbound(&usage, b, 1, 1).is_none(), "the total counts too");
        drop(first);
        assert!(usage.tunnels_of_source.lock().unwrap().is_empty());
        assert!(TunnelPermit::inbound(&usage, b, 1, 1).is_some());
    }
}
