//! A workload as a worker serves it: what the agent said of it, its accepting tasks, and a small stock of sockets in its namespace.

use crate::messages::WorkloadSpec;
use socket2::Socket;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Sockets made at once: one for who asks, the rest in stock.
pub const STOCK: usize = 4;

/// Which workload of all that this worker ever had: a uid and a generation may be sent again, for other descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadSerial(pub u64);

pub struct Workload {
    pub uid: Arc<str>,
    pub serial: WorkloadSerial,
    spec: RefCell<Arc<WorkloadSpec>>,
    accepting: RefCell<Vec<AbortHandle>>,
    /// IPv4 and IPv6.
    stock: [RefCell<Vec<Socket>>; 2],
    stock_used: Cell<bool>,
    removed: Cell<bool>,
}

impl Workload {
    pub fn new(spec: Arc<WorkloadSpec>, serial: WorkloadSerial) -> Self {
        Self {
            uid: spec.uid.clone(),
            serial,
            spec: RefCell::new(spec),
            accepting: RefCell::default(),
            stock: Default::default(),
            stock_used: Cell::new(false),
            removed: Cell::new(false),
        }
    }

    pub fn spec(&self) -> Arc<WorkloadSpec> {
        self.spec.borrow().clone()
    }

    pub fn replace_spec(&self, spec: Arc<WorkloadSpec>) {
        self.spec.replace(spec);
    }

    pub fn has_listeners(&self, spec: &WorkloadSpec) -> bool {
        let mine = self.spec();
        let same = |(a, b): (&(_, Arc<_>), &(_, Arc<_>))| a.0 == b.0 && Arc::ptr_eq(&a.1, &b.1);
        mine.listeners.len() == spec.listeners.len() && mine.listeners.iter().zip(&spec.listeners).all(same)
    }

    pub fn accepts_in(&self, task: AbortHandle) {
        self.accepting.borrow_mut().push(task);
    }

    /// Ends the accepting tasks, and with each its copy of the listener.
    pub fn stop_accepting(&self) {
        for task in self.accepting.take() {
            task.abort();
        }
    }

    /// Closes the listeners (connections that drain keep this value, not those) and the stock.
    pub fn remove(&self) {
        self.removed.set(true);
        self.stop_accepting();
        let deaf = WorkloadSpec { listeners: Vec::new(), ..WorkloadSpec::clone(&self.spec()) };
        self.spec.replace(Arc::new(deaf));
        self.stock.iter().for_each(|stock| stock.borrow_mut().clear());
    }

    pub fn is_removed(&self) -> bool {
        self.removed.get()
    }

    pub fn take_socket(&self, v6: bool) -> Option<Socket> {
        self.stock_used.set(true);
        self.stock[usize::from(v6)].borrow_mut().pop()
    }

    pub fn put_sockets(&self, v6: bool, sockets: Vec<Socket>) {
        let mut stock = self.stock[usize::from(v6)].borrow_mut();
        let room = STOCK.saturating_sub(stock.len());
        if !self.removed.get() {
            stock.extend(sockets.into_iter().take(room));
        }
    }

    /// Closes the stock if nobody has taken from it since the last call.
    pub fn trim_stock(&self) {
        if !self.stock_used.replace(false) {
            self.stock.iter().for_each(|stock| stock.borrow_mut().clear());
        }
    }
}
