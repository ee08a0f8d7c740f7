//! All tunnels of a worker, for what concerns them together: trust, drains, pings and idleness.

use super::Tunnel;
use crate::failure::{Failure, Flag};
use crate::protocol::{Settings, seconds};
use crate::worker::{Workload, unix_time};
use hbone_codec::{Code, Role};
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Instant;

#[derive(Default)]
pub struct Tunnels(RefCell<Vec<Weak<Tunnel>>>);

impl Tunnels {
    pub fn register(&self, tunnel: &Rc<Tunnel>) {
        self.0.borrow_mut().push(Rc::downgrade(tunnel));
    }

    fn all(&self) -> Vec<Rc<Tunnel>> {
        self.0.borrow().iter().filter_map(Weak::upgrade).filter(|tunnel| !tunnel.has_ended()).collect()
    }

    /// The trust changed: ends the tunnels whose peer it no longer carries.
    pub fn verify_again(&self) {
        self.all().iter().for_each(|tunnel| tunnel.verify_again());
    }

    pub fn drain(&self, workload: &Rc<Workload>) {
        self.all().iter().filter(|tunnel| Rc::ptr_eq(&tunnel.workload, workload)).for_each(|tunnel| tunnel.drain());
    }

    pub fn close(&self, workload: &Rc<Workload>) {
        for tunnel in self.all().iter().filter(|tunnel| Rc::ptr_eq(&tunnel.workload, workload)) {
            tunnel.close(Code::NO_ERROR, Failure::reset("the workload was removed"));
        }
    }

    /// Ends the tunnel that has carried nothing for longest; false if all carry something.
    pub fn close_most_idle(&self) -> bool {
        let idle = self.all().into_iter().filter(|tunnel| tunnel.is_idle()).min_by_key(|tunnel| tunnel.idle_since.get());
        if let Some(tunnel) = &idle {
            tunnel.close(Code::NO_ERROR, Failure::new(Flag::UO, "descriptors ran out"));
        }
        idle.is_some()
    }

    /// Once a second: expiry, pings, idleness.
    pub fn sweep(&self, now: Instant, settings: &Settings) {
        self.0.borrow_mut().retain(|tunnel| tunnel.strong_count() > 0);
        let now_s = unix_time().as_secs();
        for tunnel in self.all() {
            tunnel.sweep(now, now_s, settings);
        }
    }
}

impl Tunnel {
    fn sweep(&self, now: Instant, now_s: u64, settings: &Settings) {
        let Some((peer, _)) = self.peer.get() else { return };
        if now_s > peer.not_after_s() {
            return self.close(Code::NO_ERROR, Failure::new(Flag::SI, "the peer's certificate has expired"));
        }
        let idle = self.is_idle() && self.role == Role::Client;
        if idle && (self.retired.get() || now.saturating_duration_since(self.idle_since.get()) >= seconds(settings.idle_tunnel_s)) {
            return self.close(Code::NO_ERROR, Failure::reset("the tunnel was idle"));
        }
        if self.liveness.is_silent(now, seconds(settings.ping_deadline_s)) {
            return self.end(Failure::new(Flag::DT, "the peer does not answer pings"));
        }
        if self.ask_for_a_sign(seconds(settings.ping_interval_s)) {
            self.flush();
        }
    }
}
