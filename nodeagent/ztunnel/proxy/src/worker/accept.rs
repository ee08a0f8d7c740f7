//! Accepting connections of one listener; when descriptors run out it sheds and backs off, and never spins.

use super::{Worker, Workload};
use crate::limits::Shed;
use crate::log::log;
use crate::protocol::{ListenerKind, Via};
use crate::{inbound, outbound, sys};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

const BACK_OFF: Duration = Duration::from_millis(50);

/// A descriptor to give up when none is left.
pub fn reserve() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

/// This worker's copy of a listener.
pub fn listener(kind: ListenerKind, socket: &Arc<OwnedFd>) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(socket.try_clone()?);
    listener.set_nonblocking(true)?;
    sys::prepare_listener(&listener)?;
    if kind == ListenerKind::Outbound {
        sys::stays_on_node(&socket2::SockRef::from(&listener));
    }
    TcpListener::from_std(listener)
}

pub async fn run(worker: Rc<Worker>, workload: Rc<Workload>, kind: ListenerKind, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => serve(&worker, &workload, kind, stream, sys::canonical(peer)),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                log!("{}: accepting {kind:?} connections: {error}", workload.uid);
                if is_out_of_descriptors(&error) {
                    worker.shed_for_descriptors(&listener);
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn serve(worker: &Rc<Worker>, workload: &Rc<Workload>, kind: ListenerKind, stream: TcpStream, peer: SocketAddr) {
    let (on, workload) = (worker.clone(), workload.clone());
    match kind {
        ListenerKind::Outbound => worker.spawn(outbound::serve(on, workload, stream, peer)),
        ListenerKind::Inbound => worker.spawn(inbound::plaintext::serve(on, workload, stream, peer, Via::Plaintext)),
        ListenerKind::Probe => worker.spawn(inbound::plaintext::serve(on, workload, stream, peer, Via::Probe)),
        ListenerKind::Hbone => worker.spawn(inbound::hbone::serve(on, workload, stream, peer)),
    };
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Worker {
    /// Turns the connection that waits away with a reset, and ends what has been idle for longest.
    fn shed_for_descriptors(&self, listener: &TcpListener) {
        self.usage.shed(Shed::Descriptors);
        drop(self.reserve.take());
        if let Ok((waiting, _)) = socket2::SockRef::from(listener).accept() {
            drop(waiting.set_linger(Some(Duration::ZERO)));
        }
        if !self.tunnels.close_most_idle() {
            if let Some(conn) = self.connections.most_idle() {
                conn.kill(crate::failure::Failure::new(crate::failure::Flag::UO, "descriptors ran out"));
            }
        }
        self.reserve.replace(reserve());
    }
}
