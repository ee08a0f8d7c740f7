//! Connections to the workload: by tunnel, or in plaintext. Either waits for a verdict before the application hears of it.

pub mod hbone;
pub mod plaintext;

use crate::failure::{Failure, Flag};
use crate::sys;
use crate::worker::{Conn, Worker};
use socket2::Socket;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::{TcpSocket, TcpStream};

/// Where the ports that clients dial from begin, on Linux and most others.
const CLIENT_PORTS_BEGIN: u16 = 32768;
/// Below are the ports of well-known services.
const OUR_PORTS_BEGIN: u16 = 1024;
const PORT_TRIES: usize = 16;

/// Connects to the application, from the client's address if the network is the workload's own.
async fn connect_application(worker: &Rc<Worker>, conn: &Conn) -> Result<TcpStream, Failure> {
    let to = conn.destination;
    match tokio::time::timeout(worker.deadlines().connect, connect(worker, conn, to)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Failure::new(Flag::UF, format!("connecting to the application at {to}: {error}"))),
        Err(_) => Err(Failure::new(Flag::UF, format!("connecting to the application at {to}: no answer in time"))),
    }
}

async fn connect(worker: &Rc<Worker>, conn: &Conn, to: SocketAddr) -> io::Result<TcpStream> {
    let mut tries = 0;
    loop {
        let socket = worker.socket(&conn.workload, to.is_ipv6()).await?;
        let connected = match prepare(worker, conn, &socket, to) {
            Ok(()) => TcpSocket::from_std_stream(socket.into()).connect(to).await,
            Err(error) => Err(error),
        };
        tries += 1;
        match connected {
            Err(error) if port_is_taken(&error) && tries < PORT_TRIES => {}
            done => return done,
        }
    }
}

fn prepare(worker: &Rc<Worker>, conn: &Conn, socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let spec = conn.workload.spec();
    if spec.shares_network {
        // Answers to a client's address would leave the host: it takes settings of the whole network to bring them back here.
        return sys::prepare_within_host(socket, to);
    }
    let own = spec.addresses.contains(&conn.source.ip());
    let client = SocketAddr::new(conn.source.ip(), source_port(conn.source.port(), worker.random()));
    sys::prepare_to_application(socket, client, to.is_ipv6(), own)
}

fn port_is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// A port for our side of a connection that bears a client's address, out of those that the client does not dial from.
///
/// The kernel tells connections apart by addresses and ports alone. A client's plaintext connection, transparent, ends at the pod's
/// own address and port: one of ours from the same address and port to the same application would be taken for it, and hang.
fn source_port(client_port: u16, random: u64) -> u16 {
    let (begin, end) = match client_port {
        CLIENT_PORTS_BEGIN.. => (OUR_PORTS_BEGIN, CLIENT_PORTS_BEGIN),
        _ => (CLIENT_PORTS_BEGIN, u16::MAX),
    };
    begin + (random % u64::from(end - begin)) as u16
}

#[cfg(test)]
mod tests {
    use super::source_port;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn our_port_is_never_one_of_the_half_that_the_client_dials_from(client_port: u16, random: u64) {
            let port = source_port(client_port, random);
            prop_assert!(port >= 1024);
            prop_assert_ne!(port < 32768, client_port < 32768);
        }
    }
}
