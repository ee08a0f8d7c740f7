//! Outbound tunnels that are kept: per source workload and target, several when one is busy, each used for nothing else.

use crate::answers::{Endpoint, TunnelTarget};
use crate::failure::{Failure, Flag};
use crate::limits::TunnelPermit;
use crate::sys;
use crate::tunnel::{Parts, Tunnel};
use crate::worker::{Worker, Workload, WorkloadSerial};
use hbone_codec::Role;
use hbone_tls::Engine;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// One pod (not only its uid: that may come back as another) and one target.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    workload: WorkloadSerial,
    uid: Arc<str>,
    target: Arc<TunnelTarget>,
}

impl Key {
    fn new(workload: &Workload, target: &Arc<TunnelTarget>) -> Self {
        Self { workload: workload.serial, uid: workload.uid.clone(), target: target.clone() }
    }
}

type Waiter = oneshot::Sender<Result<Rc<Tunnel>, Failure>>;

#[derive(Default)]
struct Slot {
    tunnels: Vec<Rc<Tunnel>>,
    connecting: usize,
    waiting: Vec<Waiter>,
}

#[derive(Default)]
pub struct Pool {
    slots: RefCell<HashMap<Key, Slot>>,
    recheck: Cell<bool>,
}

/// A tunnel for one more stream.
pub struct Lease {
    pub tunnel: Rc<Tunnel>,
    /// It was open before: if it turns out dead, a new one is worth a try.
    pub reused: bool,
}

enum Plan {
    Use(Rc<Tunnel>),
    UseAndGrow(Rc<Tunnel>),
    Wait(oneshot::Receiver<Result<Rc<Tunnel>, Failure>>, bool),
}

impl Pool {
    /// Routes have changed: tunnels may have lost the last that names them.
    pub fn recheck(&self) {
        self.recheck.set(true);
    }

    fn plan(&self, key: &Key, most: usize) -> Plan {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(key.clone()).or_default();
        let usable = |tunnel: &&Rc<Tunnel>| tunnel.available_streams() > 0;
        let best = slot.tunnels.iter().filter(usable).min_by_key(|tunnel| (tunnel.is_busy(), tunnel.open_streams()));
        match best {
            Some(tunnel) if !tunnel.is_busy() => Plan::Use(tunnel.clone()),
            Some(tunnel) if slot.connecting > 0 || slot.tunnels.len() >= most => Plan::Use(tunnel.clone()),
            Some(tunnel) => Plan::UseAndGrow(tunnel.clone()),
            // However many there are: `most` bounds the striping of busy pairs, not how many connections a pair may have.
            None => {
                let (waiter, ready) = oneshot::channel();
                slot.waiting.push(waiter);
                Plan::Wait(ready, slot.connecting == 0)
            }
        }
    }

    fn started(&self, key: &Key) {
        self.slots.borrow_mut().entry(key.clone()).or_default().connecting += 1;
    }

    /// A connect has ended: those who wait get the tunnel, or the error that it met.
    fn connected(&self, key: &Key, result: &Result<Rc<Tunnel>, Failure>) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        slot.connecting -= 1;
        if let Ok(tunnel) = result {
            slot.tunnels.push(tunnel.clone());
        }
        for waiter in slot.waiting.drain(..) {
            // One that gave up meanwhile is not missed.
            let _ = waiter.send(result.clone());
        }
    }

    fn ended(&self, key: &Key, tunnel: &Rc<Tunnel>) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
            slot.tunnels.retain(|other| !Rc::ptr_eq(other, tunnel));
        }
    }

    /// Tunnels of a pod that is gone take no new stream, whatever comes under its name.
    pub fn forget_workload(&self, workload: &Rc<Workload>) {
        for (key, slot) in &mut *self.slots.borrow_mut() {
            if key.workload == workload.serial {
                slot.tunnels.clear();
            }
        }
    }

    /// Marks the tunnels whose target no route names any more; they end when idle.
    pub fn mark_unnamed(&self, visit: impl FnOnce(&mut dyn FnMut(&Arc<str>, &Endpoint))) {
        if !self.recheck.take() {
            return;
        }
        let mut named: HashSet<(Arc<str>, Arc<TunnelTarget>)> = HashSet::new();
        visit(&mut |workload, endpoint| {
            if let Some(target) = &endpoint.tunnel {
                named.insert((workload.clone(), target.clone()));
            }
        });
        for (key, slot) in &*self.slots.borrow() {
            slot.tunnels.iter().for_each(|tunnel| tunnel.retire(!named.contains(&(key.uid.clone(), key.target.clone()))));
        }
    }

    /// Forgets targets without tunnels.
    pub fn trim(&self) {
        self.slots.borrow_mut().retain(|_, slot| !slot.tunnels.is_empty() || slot.connecting > 0 || !slot.waiting.is_empty());
    }
}

impl Worker {
    /// A tunnel to `target` with room for a stream.
    pub async fn lease(self: &Rc<Self>, workload: &Rc<Workload>, target: &Arc<TunnelTarget>) -> Result<Lease, Failure> {
        let key = Key::new(workload, target);
        match self.pool.plan(&key, self.settings().max_pool_tunnels_per_pair) {
            Plan::Use(tunnel) => Ok(Lease { tunnel, reused: true }),
            Plan::UseAndGrow(tunnel) => {
                self.grow(key, workload.clone());
                Ok(Lease { tunnel, reused: true })
            }
            Plan::Wait(ready, start) => {
                if start {
                    self.grow(key, workload.clone());
                }
                let tunnel = ready.await.map_err(|_| Failure::new(Flag::UF, "the tunnel was given up"))??;
                Ok(Lease { tunnel, reused: false })
            }
        }
    }

    /// Connects in a task of its own, so that it does not end with the connection that wanted it first.
    fn grow(self: &Rc<Self>, key: Key, workload: Rc<Workload>) {
        self.pool.started(&key);
        let mut attempt = Attempt { worker: self.clone(), key, state: AttemptState::Connecting };
        self.spawn(async move {
            let (worker, target) = (attempt.worker.clone(), attempt.key.target.clone());
            let tunnel = match worker.start_tunnel(&target, &workload).await {
                Ok(tunnel) => tunnel,
                Err(failure) => return attempt.finish(Err(failure)),
            };
            let _guard = tunnel.guard();
            let established = tunnel.establish().await;
            if let Err(failure) = established {
                return attempt.finish(Err(failure.or_flag(Flag::UF)));
            }
            if workload.is_removed() {
                return attempt.finish(Err(Failure::new(Flag::UF, "the workload was removed")));
            }
            attempt.finish(Ok(tunnel.clone()));
            tunnel.drive().await;
        });
    }

    async fn start_tunnel(self: &Rc<Self>, target: &TunnelTarget, workload: &Rc<Workload>) -> Result<Rc<Tunnel>, Failure> {
        let permit = TunnelPermit::outbound(&self.usage, self.settings().max_tunnels)
            .ok_or_else(|| Failure::new(Flag::UO, "the limit of tunnels is reached"))?;
        let configs = self.identity(&target.identity);
        let configs = configs.ok_or_else(|| Failure::new(Flag::UF, format!("there is no certificate for {} yet", target.identity)))?;
        let io = self.connect(workload, target.address).await?;
        let mut out = self.buffers.take();
        let engine = Engine::client(&configs.client.expecting(target.expect.clone().into()), &mut out);
        let engine = engine.map_err(|error| Failure::new(Flag::UF, error.to_string()))?;
        let (workload, peer_address) = (workload.clone(), target.address);
        Ok(Tunnel::new(self, Parts { workload, peer_address, role: Role::Client, io, engine, out, permit }))
    }

    /// A TCP connection that leaves the pod as its own.
    pub async fn connect(self: &Rc<Self>, workload: &Rc<Workload>, address: SocketAddr) -> Result<TcpStream, Failure> {
        let connecting = async {
            let socket = self.socket(workload, address.is_ipv6()).await?;
            sys::prepare_outgoing(&socket)?;
            TcpSocket::from_std_stream(socket.into()).connect(address).await
        };
        match tokio::time::timeout(self.deadlines().connect, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Failure::new(Flag::UF, format!("connecting to {address}: {error}"))),
            Err(_) => Err(Failure::new(Flag::UF, format!("connecting to {address}: no answer in time"))),
        }
    }
}

/// A connect on its way, then the tunnel that came of it: tells the pool how it ended, by whatever way.
struct Attempt {
    worker: Rc<Worker>,
    key: Key,
    state: AttemptState,
}

enum AttemptState {
    Connecting,
    Failed,
    Established(Rc<Tunnel>),
}

impl Attempt {
    fn finish(&mut self, result: Result<Rc<Tunnel>, Failure>) {
        self.worker.pool.connected(&self.key, &result);
        self.state = result.map_or(AttemptState::Failed, AttemptState::Established);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        match &self.state {
            AttemptState::Connecting => self.worker.pool.connected(&self.key, &Err(Failure::new(Flag::UF, "the tunnel was given up"))),
            AttemptState::Established(tunnel) => self.worker.pool.ended(&self.key, tunnel),
            AttemptState::Failed => {}
        }
    }
}
