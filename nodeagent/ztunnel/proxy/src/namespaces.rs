//! The one thread that enters network namespaces: it makes sockets there for the workers.
//!
//! It enters the namespace anew for every request and makes nothing if that fails, so no socket is ever made in another's. Only for the
//! namespace that it is in already it enters none: a host's own workloads need no right to enter any.

use crate::sys;
use socket2::Socket;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

struct Order {
    namespace: Arc<OwnedFd>,
    v6: bool,
    count: usize,
    reply: oneshot::Sender<io::Result<Vec<Socket>>>,
}

/// Where sockets are ordered.
#[derive(Clone)]
pub struct SocketMaker(Sender<Order>);

impl SocketMaker {
    pub fn start() -> io::Result<Self> {
        let home = sys::own_network_namespace()?;
        let (sender, receiver) = channel();
        std::thread::Builder::new().name("namespaces".into()).spawn(move || serve(&home, &receiver))?;
        Ok(Self(sender))
    }

    /// `count` new TCP sockets in `namespace`.
    pub async fn make(&self, namespace: Arc<OwnedFd>, v6: bool, count: usize) -> io::Result<Vec<Socket>> {
        let (reply, made) = oneshot::channel();
        let gone = || io::Error::other("the thread that makes sockets is gone");
        self.0.send(Order { namespace, v6, count, reply }).map_err(|_| gone())?;
        made.await.map_err(|_| gone())?
    }
}

fn serve(home: &OwnedFd, orders: &Receiver<Order>) {
    let mut at_home = true;
    while let Ok(order) = orders.recv() {
        let stays = at_home && sys::is_same_file(&order.namespace, home);
        let there = if stays { Ok(()) } else { sys::enter_network_namespace(&order.namespace) };
        let left = !stays && there.is_ok();
        let made = there.and_then(|()| (0..order.count).map(|_| sys::tcp_socket(order.v6)).collect::<io::Result<Vec<_>>>());
        // A worker that gave up waiting drops the sockets. Going home lets a namespace end with its pod.
        drop(order.reply.send(made));
        if left {
            at_home = sys::enter_network_namespace(home).is_ok();
        }
    }
}
