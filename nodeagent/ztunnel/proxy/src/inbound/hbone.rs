//! HBONE connections to the workload: TLS as its identity, then CONNECT by CONNECT a verdict and the application.

use super::connect_application;
use crate::answers::Flow;
use crate::authority::admit;
use crate::failure::{Failure, Flag};
use crate::limits::{HandshakePermit, Source, TunnelPermit};
use crate::log::log;
use crate::protocol::{Direction, Via};
use crate::sys;
use crate::tunnel::{Parts, StreamGuard, Tunnel, relay};
use crate::worker::{ConnGuard, Opening, Worker, Workload};
use hbone_codec::{Request, Role};
use hbone_tls::Engine;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;

const OK: u16 = 200;
const BAD_REQUEST: u16 = 400;
const UNAUTHORIZED: u16 = 401;
const UNAVAILABLE: u16 = 503;

/// Serves a tunnel from its first byte to its last.
pub async fn serve(worker: Rc<Worker>, workload: Rc<Workload>, io: TcpStream, peer_address: SocketAddr) {
    let settings = worker.settings();
    let Some(handshake) = HandshakePermit::take(&worker.usage, settings.max_tunnels) else {
        return sys::reset_on_close(&io);
    };
    let source = Source::peer(peer_address.ip());
    let permit = TunnelPermit::take(&worker.usage, source, settings.max_tunnels, settings.max_tunnels_per_source);
    let Some(permit) = permit else {
        return sys::reset_on_close(&io);
    };
    let engine = worker.identity(&workload.spec().identity).map(|configs| Engine::server(&configs.server));
    let Some(Ok(engine)) = engine else {
        log!("{}: a tunnel from {peer_address} is refused: no certificate of {} yet", workload.uid, workload.spec().identity);
        return sys::reset_on_close(&io);
    };
    let tunnel = Tunnel::new(&worker, Parts { workload, peer_address, role: Role::Server, io, engine, out: Vec::new(), permit });
    let _guard = tunnel.guard();
    let established = tunnel.establish().await;
    drop(handshake);
    match established {
        Ok(()) => tunnel.drive().await,
        Err(failure) => log!("{}: a tunnel from {peer_address} is refused: {failure}", tunnel.workload.uid),
    }
}

/// Serves one CONNECT.
pub async fn serve_stream(stream: StreamGuard, request: Box<Request>) {
    let worker = stream.tunnel.worker.clone();
    // The request came behind the handshake: the peer is known.
    let Some(peer) = stream.tunnel.peer_identity().cloned() else { return };
    let spec = stream.tunnel.workload.spec();
    let admitted = match &request.malformed {
        Some(reason) => Err(reason.to_string()),
        None => admit(&request.authority, &spec.addresses).map_err(|reason| format!("authority {:?}: {reason}", request.authority)),
    };
    let opening = Opening {
        workload: stream.tunnel.workload.clone(),
        direction: Direction::Inbound,
        via: Via::Hbone,
        source: stream.tunnel.peer_address,
        // One that is not ours is said in the error.
        destination: admitted.as_ref().copied().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0))),
        source_identity: Some(peer.clone()),
    };
    drop(request);
    let Some(conn) = worker.open_connection(opening) else {
        return refuse(&stream, UNAVAILABLE);
    };
    conn.destination_identity.replace(Some(spec.identity.clone()));
    conn.socket.set(stream.tunnel.socket);
    let way = conn.run(Box::pin(while_wanted(&stream, find_way(&worker, &conn, admitted, peer)))).await;
    let application = match way {
        Ok(application) => application,
        Err(failure) => return refuse(&stream, status_of(&failure)),
    };
    if stream.tunnel.respond(stream.id, OK).is_err() {
        return sys::reset_on_close(&application);
    }
    conn.establish();
    let application = stream.attach(application, Rc::clone(&conn));
    // Dropping the stream before it finished resets both sides.
    let _ = conn.run(relay(&stream, application)).await;
}

/// Searches no longer than the peer waits: a stream that it opens and resets must not leave a connection to the application behind.
async fn while_wanted<T>(stream: &StreamGuard, search: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = stream.given_up() => Err(Failure::reset("the client gave up before the answer")),
        found = search => found,
    }
}

async fn find_way(
    worker: &Rc<Worker>,
    conn: &ConnGuard,
    admitted: Result<SocketAddr, String>,
    peer: Arc<str>,
) -> Result<TcpStream, Failure> {
    let destination = admitted.map_err(|reason| Failure::new(Flag::DPE, reason))?;
    let flow = Flow { workload: conn.workload.uid.clone(), destination, via: Via::Hbone, peer: Some(peer) };
    worker.authorise(conn, &flow).await?;
    connect_application(worker, conn).await
}

fn refuse(stream: &StreamGuard, status: u16) {
    // The stream may be gone by itself: then there is nobody to tell.
    let answered = stream.tunnel.respond(stream.id, status);
    if answered.is_ok() {
        stream.finish();
    }
}

fn status_of(failure: &Failure) -> u16 {
    match failure.flag {
        Some(Flag::DPE) => BAD_REQUEST,
        Some(Flag::UAEX) => UNAUTHORIZED,
        _ => UNAVAILABLE,
    }
}
