//! Plaintext connections to the workload, captured transparently, or translated to the listener with their source kept.
//!
//! Those of the kubelet come by a listener of their own (`Via::Probe`), where the kernel brings no others: they need no verdict, since
//! they stand on none, and so pass while the agent is away, too.

use super::connect_application;
use crate::answers::Flow;
use crate::authority::{INBOUND_PORT, admit_address};
use crate::failure::{Failure, Flag};
use crate::protocol::{Direction, Via};
use crate::worker::{ConnGuard, Opening, Worker, Workload};
use crate::{copy, sys};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::TcpStream;

pub async fn serve(worker: Rc<Worker>, workload: Rc<Workload>, client: TcpStream, source: SocketAddr, via: Via) {
    // A port of the mesh, if the kernel did not translate it, is refused below.
    let Ok(destination) = sys::original_destination_by(INBOUND_PORT, &client) else { return };
    let opening = Opening { workload, direction: Direction::Inbound, via, source, destination, source_identity: None };
    let Some(conn) = worker.open_connection(opening) else {
        return sys::reset_on_close(&client);
    };
    let way = conn.run(Box::pin(find_way(&worker, &conn))).await;
    let Ok(application) = way else {
        return sys::reset_on_close(&client);
    };
    conn.establish();
    if conn.run(copy::both_ways(&worker.buffers, &conn, &client, &application)).await.is_err() {
        sys::reset_on_close(&client);
        sys::reset_on_close(&application);
    }
}

async fn find_way(worker: &Rc<Worker>, conn: &ConnGuard) -> Result<TcpStream, Failure> {
    let spec = conn.workload.spec();
    admit_address(conn.destination, &spec.addresses).map_err(|reason| Failure::new(Flag::NR, reason))?;
    if conn.via.get() != Via::Probe {
        let flow = Flow { workload: spec.uid.clone(), destination: conn.destination, via: Via::Plaintext, peer: None };
        worker.authorise(conn, &flow).await?;
    }
    connect_application(worker, conn).await
}
