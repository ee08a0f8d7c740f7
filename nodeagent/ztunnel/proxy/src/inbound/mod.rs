//! Connections to the workload: by tunnel, or in plaintext. Either waits for a verdict before the application hears of it.

pub mod hbone;
pub mod plaintext;

use crate::failure::{Failure, Flag};
use crate::sys;
use crate::worker::{Conn, Worker};
use std::rc::Rc;
use tokio::net::{TcpSocket, TcpStream};

/// Connects to the application in the pod, from the client's address.
async fn connect_application(worker: &Rc<Worker>, conn: &Conn) -> Result<TcpStream, Failure> {
    let to = conn.destination;
    let connecting = async {
        let socket = worker.socket(&conn.workload, to.is_ipv6()).await?;
        sys::prepare_to_application(&socket, conn.source.ip(), to.is_ipv6())?;
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    };
    match tokio::time::timeout(worker.deadlines().connect, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Failure::new(Flag::UF, format!("connecting to the application at {to}: {error}"))),
        Err(_) => Err(Failure::new(Flag::UF, format!("connecting to the application at {to}: no answer in time"))),
    }
}
