//! What the whole process has in use, against the limits that the agent set; what is turned away is counted by reason.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Why connections were turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    Connections,
    Tunnels,
    TunnelsOfSource,
    Handshakes,
    HeldAnswers,
    BufferedBytes,
    Descriptors,
    LogEntries,
}

impl Shed {
    const NAMES: [&'static str; 8] =
        ["connections", "tunnels", "tunnels_of_source", "handshakes", "held_answers", "buffered_bytes", "descriptors", "log_entries"];

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
    /// Of the inbound tunnels, those whose peer has not proved yet who it is.
    handshakes: Gauge,
    pub buffered_bytes: Gauge,
    pub log_entries: Gauge,
    shed: [AtomicU64; Shed::NAMES.len()],
    /// The one lock between workers: taken twice in the life of a tunnel, whose handshake costs a thousand times as much.
    tunnels_of_source: Mutex<HashMap<Source, u64>>,
}

/// What one workload has in use of it. It may have as much as is left for all others together: half, if they need nothing.
#[derive(Default)]
pub struct WorkloadUsage {
    connections: Gauge,
    kept_bytes: Gauge,
}

/// Who opens tunnels: none of them may take the places of all others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The address of a peer, of inbound tunnels; of IPv6 its /64, since who has one address there has them all.
    Peer(IpAddr),
    /// A workload of this node, of outbound ones.
    Workload(Arc<str>),
}

impl Source {
    pub fn peer(address: IpAddr) -> Self {
        Self::Peer(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        })
    }
}

impl Usage {
    pub fn shed(&self, reason: Shed) {
        self.shed_many(reason, 1);
    }

    pub fn shed_many(&self, reason: Shed, count: u64) {
        self.shed[reason as usize].fetch_add(count, Relaxed);
    }

    pub fn shed_totals(&self) -> BTreeMap<&'static str, u64> {
        Shed::NAMES.iter().zip(&self.shed).map(|(name, count)| (*name, count.load(Relaxed))).filter(|(_, count)| *count > 0).collect()
    }

    /// Counts bytes that wait for an application of the workload; false if they are too many.
    pub fn keep(&self, of: &WorkloadUsage, bytes: u64, limit: u64) -> bool {
        let admitted = take_share(&self.buffered_bytes, &of.kept_bytes, bytes, limit);
        if !admitted {
            self.shed(Shed::BufferedBytes);
        }
        admitted
    }

    /// They wait no longer.
    pub fn let_go(&self, of: &WorkloadUsage, bytes: u64) {
        self.buffered_bytes.remove(bytes);
        of.kept_bytes.remove(bytes);
    }

    fn tunnels(&self, source: &Source) -> &Gauge {
        match source {
            Source::Peer(_) => &self.tunnels_in,
            Source::Workload(_) => &self.tunnels_out,
        }
    }

    fn enter_source(&self, source: &Source, limit: u64) -> bool {
        let mut sources = self.tunnels_of_source.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source.clone()).or_default();
        let admitted = *count < limit;
        if admitted {
            *count += 1;
        }
        admitted
    }

    fn leave_source(&self, source: &Source) {
        let mut sources = self.tunnels_of_source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(source);
            }
        }
    }
}

/// Adds to what all and one have, unless there is no more, or that one would have more than is left.
fn take_share(all: &Gauge, one: &Gauge, amount: u64, limit: u64) -> bool {
    // Two threads may both see the same rest: then a share is passed by what one of them adds, and the limit still holds.
    let left = limit.saturating_sub(all.get());
    let admitted = one.get().saturating_add(amount) <= left && all.try_add(amount, limit);
    if admitted {
        one.add(amount);
    }
    admitted
}

/// A place under the limit of connections, given back when dropped.
pub struct ConnectionPermit {
    usage: Arc<Usage>,
    of: Arc<WorkloadUsage>,
}

impl ConnectionPermit {
    pub fn take(usage: &Arc<Usage>, of: &Arc<WorkloadUsage>, limit: u64) -> Option<Self> {
        if take_share(&usage.connections, &of.connections, 1, limit) {
            return Some(Self { usage: usage.clone(), of: of.clone() });
        }
        usage.shed(Shed::Connections);
        None
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.usage.connections.remove(1);
        self.of.connections.remove(1);
    }
}

/// A place under the limits of tunnels, given back when dropped.
pub struct TunnelPermit {
    usage: Arc<Usage>,
    source: Source,
}

impl TunnelPermit {
    /// None: all tunnels of this direction are taken (`limit`), or all that one source may have.
    pub fn take(usage: &Arc<Usage>, source: Source, limit: u64, limit_of_source: u64) -> Option<Self> {
        if !usage.enter_source(&source, limit_of_source) {
            usage.shed(Shed::TunnelsOfSource);
            return None;
        }
        if !usage.tunnels(&source).try_add(1, limit) {
            usage.leave_source(&source);
            usage.shed(Shed::Tunnels);
            return None;
        }
        Some(Self { usage: usage.clone(), source })
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        self.usage.tunnels(&self.source).remove(1);
        self.usage.leave_source(&self.source);
    }
}

/// Tunnels in their handshake have at most this part of the places, so that those that never finish it leave room for the others.
const HANDSHAKES_SHARE: u64 = 4;

/// A place for the handshake of an inbound tunnel, given back when dropped.
pub struct HandshakePermit(Arc<Usage>);

impl HandshakePermit {
    /// None: too many of the tunnels (`max_tunnels`) are in their handshake.
    pub fn take(usage: &Arc<Usage>, max_tunnels: u64) -> Option<Self> {
        if usage.handshakes.try_add(1, (max_tunnels / HANDSHAKES_SHARE).max(1)) {
            return Some(Self(usage.clone()));
        }
        usage.shed(Shed::Handshakes);
        None
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.0.handshakes.remove(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_64_of_ipv6_is_one_source() {
        let source = |text: &str| Source::peer(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1:2:3"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }

    #[test]
    fn handshakes_take_a_fourth_of_the_tunnels() {
        let usage = Arc::new(Usage::default());
        let held: Vec<_> = std::iter::from_fn(|| HandshakePermit::take(&usage, 40)).collect();
        assert_eq!((held.len(), usage.shed_totals()), (10, BTreeMap::from([("handshakes", 1)])));
        drop(held);
        assert!(HandshakePermit::take(&usage, 1).is_some(), "one is always possible");
        assert_eq!(usage.handshakes.get(), 0);
    }

    #[test]
    fn permits_come_back() {
        let usage = Arc::new(Usage::default());
        let of = Arc::new(WorkloadUsage::default());
        let held = ConnectionPermit::take(&usage, &of, 1);
        assert!(held.is_some() && ConnectionPermit::take(&usage, &of, 1).is_none());
        drop(held);
        assert!(ConnectionPermit::take(&usage, &of, 1).is_some());
        assert_eq!(usage.shed_totals(), BTreeMap::from([("connections", 1)]));
        assert_eq!((usage.connections.get(), of.connections.get()), (0, 0));
    }

    #[test]
    fn a_workload_never_takes_what_the_others_need() {
        let usage = Arc::new(Usage::default());
        let fill = |of: &Arc<WorkloadUsage>| std::iter::from_fn(|| ConnectionPermit::take(&usage, of, 100)).collect::<Vec<_>>();
        let greedy = fill(&Arc::default());
        let second = fill(&Arc::default());
        let modest = fill(&Arc::default());
        assert_eq!((greedy.len(), second.len(), modest.len()), (50, 25, 13));
        drop((second, greedy));
        assert_eq!(fill(&Arc::default()).len(), 44);
    }

    #[test]
    fn bytes_that_wait_are_shared_likewise() {
        let (usage, greedy, modest) = (Usage::default(), WorkloadUsage::default(), WorkloadUsage::default());
        assert!(usage.keep(&greedy, 500, 1000));
        assert!(!usage.keep(&greedy, 10, 1000));
        assert!(usage.keep(&modest, 250, 1000));
        usage.let_go(&greedy, 500);
        assert!(usage.keep(&greedy, 300, 1000));
        assert_eq!((usage.buffered_bytes.get(), greedy.kept_bytes.get(), modest.kept_bytes.get()), (550, 300, 250));
        assert_eq!(usage.shed_totals(), BTreeMap::from([("buffered_bytes", 1)]));
    }

    #[test]
    fn one_source_cannot_take_all_tunnels() {
        let peer = |address: &str| Source::Peer(address.parse().unwrap());
        let workload = |uid: &str| Source::Workload(uid.into());
        for (a, b) in [(peer("10.0.0.1"), peer("10.0.0.2")), (workload("a"), workload("b"))] {
            let usage = Arc::new(Usage::default());
            let take = |source: &Source, limit| TunnelPermit::take(&usage, source.clone(), limit, 1);
            let first = take(&a, 10).unwrap();
            assert!(take(&a, 10).is_none());
            assert!(take(&b, 1).is_none(), "the total counts too");
            drop(first);
            assert!(usage.tunnels_of_source.lock().unwrap().is_empty());
            assert!(take(&b, 1).is_some());
        }
    }

    #[test]
    fn inbound_and_outbound_tunnels_do_not_take_each_other_s_places() {
        let usage = Arc::new(Usage::default());
        let _inbound = TunnelPermit::take(&usage, Source::Peer("10.0.0.1".parse().unwrap()), 1, 1).unwrap();
        assert!(TunnelPermit::take(&usage, Source::Workload("w".into()), 1, 1).is_some());
        assert_eq!((usage.tunnels_in.get(), usage.tunnels_out.get()), (1, 0));
    }
}
