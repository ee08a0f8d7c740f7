//! Outbound tunnels that are kept: per source workload and target, several when one is busy, each used for nothing else.

use crate::answers::TunnelTarget;
use crate::failure::{Failure, Flag};
use crate::limits::{Source, TunnelPermit};
use crate::messages::IdentityConfigs;
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

/// A tunnel, and the certificate that it was opened with.
struct Pooled {
    tunnel: Rc<Tunnel>,
    shown: Arc<IdentityConfigs>,
}

impl Pooled {
    /// Once we have a newer certificate, or none any more, it takes no new stream: it ends with the old one at the latest.
    fn is_current(&self, current: Option<&Arc<IdentityConfigs>>) -> bool {
        current.is_some_and(|current| Arc::ptr_eq(current, &self.shown))
    }
}

#[derive(Default)]
struct Slot {
    tunnels: Vec<Pooled>,
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
    /// Routes or our certificates have changed: tunnels may have lost the last that names them, or be out of date.
    pub fn recheck(&self) {
        self.recheck.set(true);
    }

    fn plan(&self, key: &Key, most: usize, current: Option<&Arc<IdentityConfigs>>) -> Plan {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(key.clone()).or_default();
        let tunnels = || slot.tunnels.iter().filter(|pooled| pooled.is_current(current)).map(|pooled| &pooled.tunnel);
        let usable = tunnels().filter(|tunnel| tunnel.available_streams() > 0);
        let best = usable.min_by_key(|tunnel| (tunnel.is_busy(), tunnel.open_streams()));
        match best {
            Some(tunnel) if !tunnel.is_busy() => Plan::Use(tunnel.clone()),
            Some(tunnel) if slot.connecting > 0 || tunnels().count() >= most => Plan::Use(tunnel.clone()),
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
    fn connected(&self, key: &Key, result: Result<Pooled, Failure>) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        slot.connecting -= 1;
        for waiter in slot.waiting.drain(..) {
            // One that gave up meanwhile is not missed.
            let _ = waiter.send(result.as_ref().map(|pooled| pooled.tunnel.clone()).map_err(Clone::clone));
        }
        slot.tunnels.extend(result);
    }

    fn ended(&self, key: &Key, tunnel: &Rc<Tunnel>) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
            slot.tunnels.retain(|pooled| !Rc::ptr_eq(&pooled.tunnel, tunnel));
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

    /// Marks the tunnels whose target no route names any more, or that are out of date; they end when idle.
    fn mark_unwanted(&self, worker: &Worker) {
        let mut named: HashSet<(Arc<str>, Arc<TunnelTarget>)> = HashSet::new();
        worker.named_endpoints(|workload, endpoint| {
            if let Some(through) = &endpoint.tunnel {
                named.insert((workload.clone(), through.target.clone()));
            }
        });
        for (key, slot) in &*self.slots.borrow() {
            let (current, is_named) = (worker.identity(&key.target.identity), named.contains(&(key.uid.clone(), key.target.clone())));
            slot.tunnels.iter().for_each(|pooled| pooled.tunnel.retire(!is_named || !pooled.is_current(current.as_ref())));
        }
    }

    /// Forgets targets without tunnels.
    pub fn trim(&self) {
        self.slots.borrow_mut().retain(|_, slot| !slot.tunnels.is_empty() || slot.connecting > 0 || !slot.waiting.is_empty());
    }
}

impl Worker {
    /// Looks through the pool if there was a reason since the last time.
    pub fn recheck_pool(&self) {
        if self.pool.recheck.take() {
            self.pool.mark_unwanted(self);
        }
    }

    /// A tunnel to `target` with room for a stream.
    pub async fn lease(self: &Rc<Self>, workload: &Rc<Workload>, target: &Arc<TunnelTarget>) -> Result<Lease, Failure> {
        // Whatever a route says: keys of other workloads of the node are here, too.
        if target.identity != workload.spec().identity {
            return Err(Failure::new(Flag::NR, format!("the route is for {}, which this workload is not", target.identity)));
        }
        let key = Key::new(workload, target);
        let current = self.identity(&target.identity);
        match self.pool.plan(&key, self.settings().max_pool_tunnels_per_pair, current.as_ref()) {
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
            let (tunnel, shown) = match worker.start_tunnel(&target, &workload).await {
                Ok(started) => started,
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
            if worker.identity(&target.identity).is_none() {
                return attempt.finish(Err(no_certificate(&target)));
            }
            attempt.finish(Ok(Pooled { tunnel: tunnel.clone(), shown }));
            tunnel.drive().await;
        });
    }

    async fn start_tunnel(
        self: &Rc<Self>,
        target: &TunnelTarget,
        workload: &Rc<Workload>,
    ) -> Result<(Rc<Tunnel>, Arc<IdentityConfigs>), Failure> {
        let (settings, source) = (self.settings(), Source::Workload(workload.uid.clone()));
        let permit = TunnelPermit::take(&self.usage, source, settings.max_tunnels, settings.max_tunnels_per_source)
            .ok_or_else(|| Failure::new(Flag::UO, "the limit of tunnels is reached"))?;
        let configs = self.identity(&target.identity).ok_or_else(|| no_certificate(target))?;
        let io = self.connect(workload, target.address).await?;
        let mut out = self.buffers.take();
        let engine = Engine::client(&configs.client.expecting(target.expect.clone().into()), &mut out);
        let engine = engine.map_err(|error| Failure::new(Flag::UF, error.to_string()))?;
        let (workload, peer_address) = (workload.clone(), target.address);
        let tunnel = Tunnel::new(self, Parts { workload, peer_address, role: Role::Client, io, engine, out, permit });
        Ok((tunnel, configs))
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
            Err(_) => Err(Failure::silent(Flag::UF, format!("connecting to {address}: no answer in time"))),
        }
    }
}

fn no_certificate(target: &TunnelTarget) -> Failure {
    Failure::new(Flag::UF, format!("there is no certificate for {} yet", target.identity))
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
    fn finish(&mut self, result: Result<Pooled, Failure>) {
        self.state = result.as_ref().map_or(AttemptState::Failed, |pooled| AttemptState::Established(pooled.tunnel.clone()));
        self.worker.pool.connected(&self.key, result);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        match &self.state {
            AttemptState::Connecting => self.worker.pool.connected(&self.key, Err(Failure::new(Flag::UF, "the tunnel was given up"))),
            AttemptState::Established(tunnel) => self.worker.pool.ended(&self.key, tunnel),
            AttemptState::Failed => {}
        }
    }
}
