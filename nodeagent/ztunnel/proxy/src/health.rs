//! How endpoints have fared lately, as this worker saw it: open connections and failures in a row.
//!
//! One workload's failures are its own, and so are those of one destination: a pod that drops its own packets, or dials ports that
//! nobody serves, takes no endpoint from others.

use crate::worker::WorkloadSerial;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Default)]
pub struct Health {
    open: Cell<u32>,
    failures: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
}

impl Health {
    pub fn load(&self) -> u32 {
        self.open.get()
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.get().is_some_and(|until| now < until)
    }

    pub fn succeeded(&self) {
        self.failures.set(0);
        self.ejected_until.set(None);
    }

    /// It said no, or broke: that may have been one connection's bad luck, until it comes again and again.
    pub fn failed(&self, now: Instant, eject_after_failures: u32, eject: Duration) {
        self.failures.set(self.failures.get().saturating_add(1));
        if self.failures.get() >= eject_after_failures {
            self.ejected_until.set(now.checked_add(eject));
        }
    }

    /// It said nothing: to find that out again would cost each connection all its patience.
    pub fn silent(&self, now: Instant, eject: Duration) {
        self.ejected_until.set(now.checked_add(eject));
    }
}

/// Counts as load of the endpoint until dropped.
pub struct Load(Rc<Health>);

impl Load {
    pub fn on(health: &Rc<Health>) -> Self {
        health.open.set(health.open.get() + 1);
        Self(health.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

#[derive(Default)]
pub struct HealthTable(RefCell<HashMap<Key, Rc<Health>>>);

/// Who dials what, and the endpoint's uid and address.
type Key = (Caller, Arc<str>, SocketAddr);
pub type Caller = (WorkloadSerial, SocketAddr);

impl HealthTable {
    pub fn of(&self, caller: Caller, uid: &Arc<str>, address: SocketAddr) -> Rc<Health> {
        self.0.borrow_mut().entry((caller, uid.clone(), address)).or_default().clone()
    }

    /// Forgets endpoints that carry nothing and are not ejected.
    pub fn trim(&self, now: Instant) {
        self.0.borrow_mut().retain(|_, health| Rc::strong_count(health) > 1 || health.is_ejected(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_ejected_for_a_while_and_comes_back() {
        let (health, now, eject) = (Health::default(), Instant::now(), Duration::from_secs(10));
        health.failed(now, 2, eject);
        assert!(!health.is_ejected(now));
        health.failed(now, 2, eject);
        assert!(health.is_ejected(now) && !health.is_ejected(now + eject));
        health.succeeded();
        assert!(!health.is_ejected(now));
    }

    #[test]
    fn silence_ejects_at_once() {
        let (health, now, eject) = (Health::default(), Instant::now(), Duration::from_secs(10));
        health.silent(now, eject);
        assert!(health.is_ejected(now) && !health.is_ejected(now + eject));
    }

    #[test]
    fn what_one_caller_meets_is_nothing_to_another() {
        let (table, now) = (HealthTable::default(), Instant::now());
        let [here, there] = ["10.0.0.1:80", "10.0.0.1:81"].map(|address| address.parse().unwrap());
        table.of((WorkloadSerial(1), here), &"a".into(), here).silent(now, Duration::from_secs(10));
        assert!(table.of((WorkloadSerial(1), here), &"a".into(), here).is_ejected(now));
        for caller in [(WorkloadSerial(2), here), (WorkloadSerial(1), there)] {
            assert!(!table.of(caller, &"a".into(), here).is_ejected(now));
        }
    }

    #[test]
    fn the_table_forgets_what_carries_nothing() {
        let table = HealthTable::default();
        let address = "10.0.0.1:80".parse().unwrap();
        let caller = (WorkloadSerial(1), address);
        let load = Load::on(&table.of(caller, &"a".into(), address));
        assert_eq!(table.of(caller, &"a".into(), address).load(), 1);
        table.trim(Instant::now());
        assert_eq!(table.0.borrow().len(), 1);
        drop(load);
        table.trim(Instant::now());
        assert!(table.0.borrow().is_empty());
    }
}
