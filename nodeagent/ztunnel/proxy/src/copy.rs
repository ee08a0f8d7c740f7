//! Plaintext from one socket to another and back, with half-close. What comes in bulk never enters this process: splice(2).

use crate::buffers::{Buffers, PIPE_BYTES, Pipe};
use crate::failure::Failure;
use crate::readiness;
use crate::sys;
use crate::worker::Conn;
use rustix::pipe::{SpliceFlags, splice};
use std::io;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A read that brought this much is taken for the beginning of bulk.
const BULK_BYTES: usize = 16 << 10;
/// Splices before the other connections of this worker get their turn.
const TURNS: u32 = 8;

/// Copies until both directions have ended.
pub async fn both_ways(buffers: &Buffers, conn: &Conn, client: &TcpStream, server: &TcpStream) -> Result<(), Failure> {
    let sent = |bytes| conn.add_sent(bytes);
    let received = |bytes| conn.add_received(bytes);
    let outward = one_way(buffers, client, server, &sent);
    let inward = one_way(buffers, server, client, &received);
    tokio::pin!(outward, inward);
    let (mut outward_open, mut inward_open) = (true, true);
    while outward_open || inward_open {
        let result = tokio::select! {
            result = &mut outward, if outward_open => { outward_open = false; result }
            result = &mut inward, if inward_open => { inward_open = false; result }
        };
        result.map_err(|error| Failure::reset(error.to_string()))?;
        conn.half_closed.set(true);
    }
    Ok(())
}

async fn one_way(buffers: &Buffers, from: &TcpStream, to: &TcpStream, count: &impl Fn(usize)) -> io::Result<()> {
    let mut bulk = false;
    loop {
        from.readable().await?;
        let step = if bulk { splice_burst(buffers, from, to, count).await } else { copy_some(buffers, from, to, count).await };
        match step {
            Ok(Step { ended: true, .. }) => {
                sys::shut_down_writing(to);
                return Ok(());
            }
            // What comes next is taken to be as what came last: a byte spliced costs more calls than one that is copied.
            Ok(Step { bytes, .. }) => bulk = bytes >= BULK_BYTES,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// What one step has moved.
struct Step {
    bytes: usize,
    /// `from` has ended.
    ended: bool,
}

/// One read through the worker's buffer; what `to` does not take at once is kept until it does.
async fn copy_some(buffers: &Buffers, from: &TcpStream, to: &TcpStream, count: &impl Fn(usize)) -> io::Result<Step> {
    let (got, rest) = {
        let mut buffer = buffers.send();
        let got = readiness::read(from, &mut buffer[..BULK_BYTES])?;
        if got == 0 {
            return Ok(Step { bytes: 0, ended: true });
        }
        let written = match to.try_write(&buffer[..got]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        count(written);
        (got, buffer[written..got].to_vec())
    };
    let mut left = &rest[..];
    while !left.is_empty() {
        to.writable().await?;
        match to.try_write(left) {
            Ok(written) => {
                count(written);
                left = &left[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Step { bytes: got, ended: false })
}

/// Splices until `from` has nothing left for now. Without a pipe it copies.
async fn splice_burst(buffers: &Buffers, from: &TcpStream, to: &TcpStream, count: &impl Fn(usize)) -> io::Result<Step> {
    let Ok(pipe) = buffers.take_pipe() else {
        return copy_some(buffers, from, to, count).await;
    };
    let (mut turns, mut bytes) = (0, 0);
    let ended = loop {
        let got = match from.try_io(Interest::READABLE, || move_bytes(from, &pipe.write, PIPE_BYTES)) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
            Err(error) => return Err(error),
        };
        if got == 0 {
            break true;
        }
        drain(&pipe, got, to, count).await?;
        bytes += got;
        turns += 1;
        if turns % TURNS == 0 {
            tokio::task::yield_now().await;
        }
    };
    // Only an empty pipe goes back: after an error it is closed with what it holds.
    buffers.give_pipe(pipe);
    Ok(Step { bytes, ended })
}

async fn drain(pipe: &Pipe, bytes: usize, to: &TcpStream, count: &impl Fn(usize)) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        match to.try_io(Interest::WRITABLE, || move_bytes(&pipe.read, to, left)) {
            Ok(moved) => {
                count(moved);
                left -= moved;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn move_bytes(from: &impl std::os::fd::AsFd, to: &impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from.as_fd(), None, to.as_fd(), None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}
