//! Connections that the workload's applications open: ask where to, get there, relay.

use crate::answers::{Endpoint, Route, Through};
use crate::authority::is_proxy_port;
use crate::endpoints::{Candidate, choose, has_other};
use crate::failure::{Failure, Flag};
use crate::health::{Health, Load};
use crate::pool::Lease;
use crate::protocol::{Direction, Via, seconds};
use crate::tunnel::{StreamGuard, Tunnel, relay};
use crate::worker::{Conn, ConnGuard, Opening, Worker, Workload};
use crate::{copy, sys};
use hbone_codec::{HeaderBlock, OpenError};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Kept tunnels that may turn out dead before a connect counts as failed.
const MAX_DEAD_TUNNELS: u32 = 2;

/// The way to an endpoint that answered.
enum Path {
    Plain(TcpStream),
    Tunnel(StreamGuard),
}

pub async fn serve(worker: Rc<Worker>, workload: Rc<Workload>, client: TcpStream, source: SocketAddr) {
    // Not redirected, or redirected to ourselves: there is nowhere to go.
    let Some(destination) = sys::original_destination(&client).ok().filter(|to| !is_loop(*to, &workload)) else {
        return sys::reset_on_close(&client);
    };
    let opening = Opening { workload, direction: Direction::Outbound, via: Via::Plaintext, source, destination, source_identity: None };
    let Some(conn) = worker.open_connection(opening) else {
        return sys::reset_on_close(&client);
    };
    Box::pin(serve_connection(&worker, &conn, client)).await;
}

fn is_loop(destination: SocketAddr, workload: &Workload) -> bool {
    let own = destination.ip().is_loopback() || destination.ip().is_unspecified() || workload.spec().addresses.contains(&destination.ip());
    own && is_proxy_port(destination.port())
}

async fn serve_connection(worker: &Rc<Worker>, conn: &ConnGuard, client: TcpStream) {
    let mut client = Some(client);
    let way = conn.run(find_way(worker, conn)).await;
    let Ok((path, _load)) = way else {
        return client.iter().for_each(sys::reset_on_close);
    };
    conn.establish();
    match path {
        Path::Plain(server) => {
            let Some(client) = client.take() else { return };
            let result = conn.run(copy::both_ways(&worker.buffers, conn, &client, &server)).await;
            if result.is_err() {
                sys::reset_on_close(&client);
                sys::reset_on_close(&server);
            }
        }
        Path::Tunnel(stream) => {
            let Some(client) = client.take() else { return };
            let application = stream.attach(client, Rc::clone(conn));
            // Dropping the stream before it finished resets both sides.
            let _ = conn.run(relay(&stream, application)).await;
        }
    }
}

async fn find_way(worker: &Rc<Worker>, conn: &ConnGuard) -> Result<(Path, Option<Load>), Failure> {
    let route = worker.route(&conn.workload.uid, conn.destination).await?;
    match &*route {
        Route::Pass(series) => {
            conn.counted_as(series);
            Ok((plain(conn, worker.connect(&conn.workload, conn.destination).await?), None))
        }
        Route::Refuse { flag, reason, series } => {
            conn.counted_as(series);
            Err(Failure::new(*flag, reason.clone()))
        }
        Route::Forward(endpoints) => try_endpoints(worker, conn, endpoints).await,
    }
}

/// Tries endpoints in their order until one answers; the client notices none of the failures before.
async fn try_endpoints(worker: &Rc<Worker>, conn: &Conn, endpoints: &[Endpoint]) -> Result<(Path, Option<Load>), Failure> {
    let settings = worker.settings();
    let caller = (conn.workload.serial, conn.destination);
    let health: Vec<Rc<Health>> = endpoints.iter().map(|endpoint| worker.health.of(caller, &endpoint.uid, endpoint.address)).collect();
    let mut tried = vec![false; endpoints.len()];
    let mut last = Failure::new(Flag::UH, "there is no endpoint");
    for left in (0..settings.connect_tries).rev() {
        let now = Instant::now();
        let candidates: Vec<Candidate> = endpoints
            .iter()
            .zip(health.iter().zip(&tried))
            .map(|(endpoint, (health, tried))| Candidate {
                tier: endpoint.tier,
                weight: endpoint.weight,
                load: health.load(),
                ejected: health.is_ejected(now),
                tried: *tried,
            })
            .collect();
        let Some(index) = choose(&candidates, worker.random()) else { break };
        tried[index] = true;
        conn.counted_as(&endpoints[index].series);
        let load = Load::on(&health[index]);
        let patience = (left > 0 && has_other(&candidates, index)).then_some(worker.deadlines().attempt);
        match reach(worker, conn, &endpoints[index], patience).await {
            Ok(path) => {
                health[index].succeeded();
                return Ok((path, Some(load)));
            }
            Err(Refusal::Final(failure)) => return Err(failure),
            Err(Refusal::TryNext(failure)) => {
                let (now, eject) = (Instant::now(), seconds(settings.eject_s));
                if failure.is_silent {
                    health[index].silent(now, eject);
                } else {
                    health[index].failed(now, settings.eject_after_failures, eject);
                }
                last = failure;
            }
        }
    }
    Err(last)
}

fn plain(conn: &Conn, stream: TcpStream) -> Path {
    conn.socket.set(sys::cookie(&stream));
    Path::Plain(stream)
}

enum Refusal {
    /// Another endpoint may do better.
    TryNext(Failure),
    /// The endpoint said no: asking another would be going around its policy.
    Final(Failure),
}

/// `patience`: for a sign of life of this endpoint, since there are others; None: all that the deadlines give.
async fn reach(worker: &Rc<Worker>, conn: &Conn, endpoint: &Endpoint, patience: Option<Duration>) -> Result<Path, Refusal> {
    conn.socket.set(None);
    let Some(through @ Through { target, authority }) = &endpoint.tunnel else {
        conn.via.set(Via::Plaintext);
        conn.hbone_address.set(None);
        conn.destination_identity.replace(None);
        let connected = within(patience, worker.connect(&conn.workload, endpoint.address)).await;
        return connected.map(|stream| plain(conn, stream)).map_err(Refusal::TryNext);
    };
    conn.via.set(Via::Hbone);
    conn.hbone_address.set(Some(endpoint.address));
    conn.source_identity.replace(Some(target.identity.clone()));
    conn.destination_identity.replace(None);
    let deadline = worker.deadlines().answer;
    let mut dead_tunnels = 0;
    loop {
        // Connecting has its own deadlines, each of which gives everyone who waits an answer; it goes on when nobody does.
        let lease = within(patience, worker.lease(&conn.workload, target)).await.map_err(Refusal::TryNext)?;
        conn.destination_identity.replace(lease.tunnel.peer_identity().cloned());
        conn.socket.set(lease.tunnel.socket);
        let Some(stream) = open(worker, &lease.tunnel, conn, authority).map_err(Refusal::TryNext)? else {
            // Whoever waited for the same tunnel may have taken its last stream: then the next lease is of another. One that takes
            // none at all is the peer's doing, and there would be no end to those.
            dead_tunnels += u32::from(lease.tunnel.open_streams() == 0);
            if dead_tunnels > MAX_DEAD_TUNNELS {
                return Err(Refusal::TryNext(Failure::new(Flag::UF, "the other side takes no streams")));
            }
            continue;
        };
        if through.by_waypoint() {
            stream.goes_by_waypoint();
        }
        match tokio::time::timeout(deadline, lease.tunnel.answer(&stream)).await {
            Err(_) => return Err(Refusal::TryNext(Failure::new(Flag::DT, "the other side gave no answer in time"))),
            Ok(Ok(status)) => return judge(stream, status),
            // To connect anew to one that is silent would take more of the caller's time than another endpoint.
            Ok(Err(failure)) if failure.is_silent && patience.is_some() => return Err(Refusal::TryNext(failure)),
            Ok(Err(_)) if dead_tunnels < MAX_DEAD_TUNNELS && says_nothing(&lease, &stream) => dead_tunnels += 1,
            Ok(Err(failure)) => return Err(Refusal::TryNext(failure.or_flag(Flag::UF))),
        }
    }
}

async fn within<T>(patience: Option<Duration>, attempt: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let Some(patience) = patience else { return attempt.await };
    let silent = |_| Err(Failure::silent(Flag::UF, "no way to it came about in time"));
    tokio::time::timeout(patience, attempt).await.unwrap_or_else(silent)
}

/// Whether a stream that went without an answer says nothing about its endpoint: the peer did not look at it (it was draining), or
/// a kept tunnel had died unnoticed.
fn says_nothing(lease: &Lease, stream: &StreamGuard) -> bool {
    stream.was_refused() || (lease.reused && lease.tunnel.available_streams() == 0)
}

/// None: this tunnel takes no more streams.
fn open(worker: &Worker, tunnel: &Rc<Tunnel>, conn: &Conn, authority: &str) -> Result<Option<StreamGuard>, Failure> {
    use OpenError::{Draining, Exhausted, TooManyStreams};
    let block = HeaderBlock::connect(authority).map_err(|_| Failure::new(Flag::NR, "the agent gave an authority that cannot be sent"))?;
    let client = format!("for=\"{}\"", conn.source);
    let spec = tunnel.workload.spec();
    let trace = traceparent(|| worker.random());
    let fields = [("forwarded", client.as_str()), ("traceparent", trace.as_str()), ("baggage", spec.baggage.as_str())];
    match tunnel.open(&block, if spec.baggage.is_empty() { &fields[..2] } else { &fields }) {
        Ok(stream) => Ok(Some(stream)),
        Err(TooManyStreams | Draining | Exhausted) => Ok(None),
        Err(error) => Err(Failure::new(Flag::UF, error.to_string())),
    }
}

/// A new trace (W3C Trace Context, version 00) that nobody samples yet: waypoints and gateways on the way may take it up. `random`
/// gives no zeros, which would make the ids invalid.
fn traceparent(mut random: impl FnMut() -> u64) -> String {
    format!("00-{:016x}{:016x}-{:016x}-00", random(), random(), random())
}

fn judge(stream: StreamGuard, status: u16) -> Result<Path, Refusal> {
    match status {
        200..=299 => Ok(Path::Tunnel(stream)),
        401 | 403 => Err(Refusal::Final(Failure::new(Flag::UAEX, "the other side denies it by its policy"))),
        503 => Err(Refusal::TryNext(Failure::new(Flag::UF, "the other side could not reach its application"))),
        _ => Err(Refusal::TryNext(Failure::new(Flag::UF, format!("the other side answered {status}")))),
    }
}
