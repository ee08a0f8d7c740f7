//! Carrying bytes between an application's socket and a stream, both ways, with half-close.

use super::core::tls_failure;
use super::stream::{Application, Gone, Next};
use super::{Stream, StreamGuard, Tunnel};
use crate::buffers::READ_BYTES;
use crate::failure::Failure;
use crate::readiness;
use crate::sys;
use hbone_codec::SendError;
use std::io::{self, IoSliceMut};
use std::rc::Rc;

/// A frame fills a TLS record: nine bytes of header, the rest payload.
const HEADER_BYTES: usize = 9;
const RECORD_BYTES: usize = hbone_tls::MAX_PLAINTEXT_BYTES;
const PAYLOAD_BYTES: usize = RECORD_BYTES - HEADER_BYTES;
/// What one application may send before the others of this worker get their turn.
const TURN_BYTES: usize = READ_BYTES / 2;

/// Relays until both directions have ended. The stream's application must be attached.
pub async fn relay(stream: &StreamGuard, application: &Application) -> Result<(), Failure> {
    let outward = to_tunnel(stream, application);
    let inward = to_application(stream, application);
    tokio::pin!(outward, inward);
    let (mut outward_open, mut inward_open, mut all_sent) = (true, true, false);
    while outward_open || inward_open {
        tokio::select! {
            biased;
            result = &mut inward, if inward_open => {
                inward_open = false;
                if result? == Inward::Gone {
                    break;
                }
            }
            result = &mut outward, if outward_open => {
                outward_open = false;
                all_sent = result? == Outward::Ended;
            }
        }
        application.conn.half_closed.set(true);
    }
    // What came was complete; that the application could say no more is no end in order if the tunnel was closed for it.
    if let Some(reason) = stream.tunnel.ended.borrow().as_ref().filter(|_| !all_sent) {
        return Err(reason.clone());
    }
    stream.finish();
    Ok(())
}

#[derive(PartialEq)]
enum Inward {
    Ended,
    /// The stream is gone both ways: nothing can be sent either.
    Gone,
}

async fn to_application(stream: &Rc<Stream>, application: &Application) -> Result<Inward, Failure> {
    loop {
        match stream.next() {
            Next::Write => {
                tokio::select! {
                    biased;
                    // The only news that matters while bytes wait is that the stream broke.
                    () = stream.news() => {}
                    ready = application.socket.writable() => {
                        ready.map_err(|error| Failure::reset(error.to_string()))?;
                        stream.write_pending(application);
                    }
                }
            }
            Next::End => {
                sys::shut_down_writing(&application.socket);
                return Ok(Inward::Ended);
            }
            Next::Gone(Gone::Complete) => {
                sys::shut_down_writing(&application.socket);
                return Ok(Inward::Gone);
            }
            Next::Gone(Gone::Broken(failure)) => return Err(failure),
            Next::Wait => stream.news().await,
        }
    }
}

#[derive(PartialEq)]
enum Outward {
    /// All of it is sent, and its end.
    Ended,
    /// The stream is gone: nobody takes more.
    Gone,
}

enum Turn {
    Moved(usize),
    Ended,
    Gone,
    NothingToRead,
    NoRoom,
}

async fn to_tunnel(stream: &Rc<Stream>, application: &Application) -> Result<Outward, Failure> {
    let mut moved = 0;
    loop {
        match stream.tunnel.carry(stream, application)? {
            Turn::Moved(bytes) => {
                moved += bytes;
                if moved > TURN_BYTES {
                    moved = 0;
                    tokio::task::yield_now().await;
                }
            }
            Turn::Ended => return Ok(Outward::Ended),
            Turn::Gone => return Ok(Outward::Gone),
            Turn::NothingToRead => {
                tokio::select! {
                    biased;
                    // Then the application is told, silent or not.
                    () = stream.cut_off() => {}
                    ready = application.socket.readable() => ready.map_err(|error| Failure::reset(error.to_string()))?,
                }
            }
            Turn::NoRoom => stream.room().await,
        }
    }
}

impl Tunnel {
    /// One turn from the application to the tunnel's socket: read, frame, seal, write.
    fn carry(&self, stream: &Rc<Stream>, application: &Application) -> Result<Turn, Failure> {
        match stream.gone() {
            Some(Gone::Broken(failure)) => return Err(failure),
            Some(Gone::Complete) => return Ok(Turn::Gone),
            None => {}
        }
        let mut core = self.core.borrow_mut();
        if !self.has_room(core.unsent()) {
            let mut blocked = self.blocked.borrow_mut();
            if !blocked.iter().any(|other| Rc::ptr_eq(other, stream)) {
                blocked.push(stream.clone());
            }
            return Ok(Turn::NoRoom);
        }
        let room = match core.codec.sendable(stream.id) {
            Ok(0) => return Ok(Turn::NoRoom),
            Ok(room) => room,
            // The tunnel's end comes to the stream with its reason, and raises `room`.
            Err(SendError::Closed) if self.has_ended() => return Ok(Turn::NoRoom),
            Err(SendError::Closed) => return Ok(Turn::Gone),
            Err(error) => return Err(Failure::reset(format!("{error:?}"))),
        };
        core.seal_control(&self.worker.buffers)?;
        let mut buffer = self.worker.buffers.send();
        let got = match read_framed(application, &mut buffer, room) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::NothingToRead),
            Err(error) => return Err(Failure::reset(format!("reading from the application: {error}"))),
        };
        let mut framed = 0;
        while framed < got {
            let part = PAYLOAD_BYTES.min(got - framed);
            let at = framed / PAYLOAD_BYTES * RECORD_BYTES;
            let header = core.codec.frame_header(stream.id, part, false).map_err(|error| Failure::reset(format!("{error:?}")))?;
            buffer[at..at + HEADER_BYTES].copy_from_slice(&header);
            framed += part;
        }
        let frames = got.div_ceil(PAYLOAD_BYTES);
        let super::core::Core { engine, codec, out, .. } = &mut *core;
        if out.capacity() == 0 {
            *out = self.worker.buffers.take();
        }
        if got == 0 {
            let mut end = Vec::new();
            codec.send_data(stream.id, &[], true, &mut end).map_err(|error| Failure::reset(format!("{error:?}")))?;
            engine.seal(&end, out).map_err(|error| tls_failure(&error))?;
        } else {
            engine.seal(&buffer[..got + frames * HEADER_BYTES], out).map_err(|error| tls_failure(&error))?;
        }
        drop(core);
        drop(buffer);
        application.conn.count_from_application(got);
        self.flush();
        Ok(if got == 0 { Turn::Ended } else { Turn::Moved(got) })
    }
}

/// Reads at most `room` bytes, leaving room for a frame's header at the start of each record.
fn read_framed(application: &Application, buffer: &mut [u8], room: usize) -> io::Result<usize> {
    let mut left = room;
    let mut pieces: [IoSliceMut<'_>; READ_BYTES / RECORD_BYTES] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let mut count = 0;
    for (piece, record) in pieces.iter_mut().zip(buffer.chunks_exact_mut(RECORD_BYTES)) {
        let part = left.min(PAYLOAD_BYTES);
        if part == 0 {
            break;
        }
        *piece = IoSliceMut::new(&mut record[HEADER_BYTES..HEADER_BYTES + part]);
        left -= part;
        count += 1;
    }
    readiness::read_vectored(&application.socket, &mut pieces[..count])
}
