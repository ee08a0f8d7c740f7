//! The task that drives a tunnel, from the handshake to its end.

use super::core::{Core, tls_failure};
use super::gather::Gathered;
use super::{Stream, Tunnel, broken};
use crate::failure::{Failure, Flag};
use crate::{inbound, readiness};
use hbone_codec::{Connection, Event};
use hbone_tls::State;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::Interest;

impl Tunnel {
    /// The TLS handshake, then the peer's preface, each with its deadline.
    pub async fn establish(self: &Rc<Self>) -> Result<(), Failure> {
        self.flush();
        let deadlines = self.worker.deadlines();
        within(deadlines.handshake, "the TLS handshake took too long", self.pump(Core::is_open)).await?;
        self.note_peer()?;
        self.flush();
        within(deadlines.preface, "no HTTP/2 preface came in time", self.pump(|core| core.codec.is_established())).await
    }

    /// Drives an established tunnel to its end.
    pub async fn drive(self: &Rc<Self>) {
        // A stream that is over for the codec may still have bytes for its application.
        if let Err(failure) = self.pump(|core| core.codec.is_closed() && self.is_idle()).await {
            self.end(failure);
        }
    }

    /// Says goodbye as far as that needs no waiting, and ends what the tunnel carried.
    fn wind_up(&self) {
        let reason = self.ended.borrow().clone().unwrap_or_else(|| Failure::reset("the tunnel ended"));
        // What cannot be sent without waiting is not sent: the connection is over.
        drop(self.core.borrow_mut().say_goodbye(&self.io, &self.worker.buffers));
        self.end(reason.clone());
        for (_, stream) in self.streams.take() {
            stream.tunnel_ended(&reason);
        }
        // Those streams hold this tunnel.
        self.blocked.take();
    }

    /// Ends the tunnel with the task that drives it, however that ends.
    pub fn guard(self: &Rc<Self>) -> DriverGuard {
        DriverGuard(self.clone())
    }

    /// Keeps what the handshake proved. The trust may have changed while it ran.
    fn note_peer(&self) -> Result<(), Failure> {
        let peer = self.core.borrow().engine.peer().cloned().ok_or_else(|| Failure::new(Flag::SI, "the peer is unknown"))?;
        let identity = peer.identity().as_str().into();
        let verified_under = peer.trust_generation();
        let _ = self.peer.set((peer, identity));
        if verified_under != self.worker.trust.generation() {
            self.verify_again();
        }
        match &*self.ended.borrow() {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// Verifies the peer's certificate under the trust in force, and ends the tunnel if it no longer holds.
    pub fn verify_again(&self) {
        let Some((peer, _)) = self.peer.get() else { return };
        let now_s = crate::worker::unix_time().as_secs();
        if let Err(refused) = self.worker.trust.still_valid(peer, now_s) {
            self.close(hbone_codec::Code::NO_ERROR, Failure::new(Flag::SI, refused.to_string()));
        }
    }

    /// Reads and writes until `done`, or an end.
    async fn pump(self: &Rc<Self>, done: impl Fn(&Core) -> bool) -> Result<(), Failure> {
        loop {
            if let Some(failure) = &*self.ended.borrow() {
                return Err(failure.clone());
            }
            let unsent = {
                let core = self.core.borrow();
                if done(&core) {
                    return Ok(());
                }
                core.unsent() > 0
            };
            let interest = if unsent { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = tokio::select! {
                biased;
                ready = self.io.ready(interest) => ready.map_err(|error| Failure::reset(error.to_string()))?,
                () = self.wake.wait() => continue,
            };
            if unsent && ready.is_writable() {
                self.flush();
            }
            if ready.is_readable() || ready.is_read_closed() {
                let more = self.read_once()?;
                if more {
                    // The others of this worker get their turn.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Reads once and handles all that came; false when nothing is left to read.
    fn read_once(self: &Rc<Self>) -> Result<bool, Failure> {
        let mut buffer = self.worker.buffers.receive();
        let room = buffer.len();
        let got = match readiness::read(&self.io, &mut buffer[..]) {
            Ok(0) => return Err(Failure::reset("the peer closed the tunnel")),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(Failure::reset(format!("reading from the tunnel: {error}"))),
        };
        let now = Instant::now();
        self.liveness.heard(now);
        let mut core = self.core.borrow_mut();
        let Core { engine, codec, out, .. } = &mut *core;
        let mut error = None;
        let mut joined = Vec::new();
        let mut gathered = Gathered::default();
        let state = engine.receive(&mut buffer[..got], &mut joined, out, |plain| {
            if error.is_none() {
                error = self.frames(codec, plain, &mut gathered, now).err();
            }
        });
        gathered.deliver(codec);
        drop(gathered);
        drop(core);
        drop(buffer);
        self.flush();
        match (state, error) {
            (_, Some(failure)) => Err(failure),
            (Err(error), None) => Err(tls_failure(&error)),
            (Ok(State::PeerClosed), None) => Err(Failure::reset("the peer closed the tunnel")),
            (Ok(_), None) => Ok(got == room),
        }
    }

    fn frames<'i>(
        self: &Rc<Self>,
        codec: &mut Connection,
        mut plain: &'i [u8],
        gathered: &mut Gathered<'i>,
        now: Instant,
    ) -> Result<(), Failure> {
        while let Some(event) = codec.receive(&mut plain, now).map_err(broken)? {
            self.handle(codec, event, gathered);
        }
        Ok(())
    }

    fn handle<'i>(self: &Rc<Self>, codec: &mut Connection, event: Event<'i>, gathered: &mut Gathered<'i>) {
        if let Event::Data { stream, payload } = event {
            return match self.stream(stream) {
                Some(carrier) => gathered.add(codec, carrier, payload),
                None => codec.release(stream, payload.len()),
            };
        }
        // What came before is passed on before: an end must not overtake it.
        gathered.deliver(codec);
        match event {
            Event::Data { .. } => {}
            Event::Request(request) => {
                let stream = Stream::new(self, request.stream);
                self.streams.borrow_mut().insert(request.stream, stream.clone());
                self.worker.spawn(inbound::hbone::serve_stream(super::StreamGuard::new(stream), request));
            }
            Event::Response { stream, status } => self.with_stream(stream, |carrier| carrier.answered(status)),
            Event::End { stream } => self.with_stream(stream, Stream::ended),
            Event::Reset { stream, code, .. } => self.with_stream(stream, |carrier| carrier.reset(code)),
            Event::Writable { stream } => self.with_stream(stream, Stream::may_send),
            Event::Pong { .. } => self.liveness.answered(),
            Event::SettingsReceived(_) | Event::GoAway { .. } => self.wake.raise(),
        }
    }

    fn stream(&self, id: hbone_codec::StreamId) -> Option<Rc<Stream>> {
        self.streams.borrow().get(&id).cloned()
    }

    fn with_stream(&self, id: hbone_codec::StreamId, act: impl FnOnce(&Stream)) {
        if let Some(stream) = self.stream(id) {
            act(&stream);
        }
    }
}

pub struct DriverGuard(Rc<Tunnel>);

impl Drop for DriverGuard {
    fn drop(&mut self) {
        self.0.wind_up();
    }
}

async fn within(deadline: Duration, late: &str, wait: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::time::timeout(deadline, wait).await.unwrap_or_else(|_| Err(Failure::silent(Flag::DT, late)))
}
