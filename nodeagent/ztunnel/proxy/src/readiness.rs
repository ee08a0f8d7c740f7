//! Reads that tell the reactor when a socket is drained, which saves the read that would say so.

use std::io::{self, IoSliceMut};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads what there is. A short read means that nothing is left (the reactor wakes on what comes next), except for the end of
/// the stream, which the reactor reports apart.
pub fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let room = buffer.len();
    read_with(stream, room, || Ok(rustix::io::read(stream, &mut *buffer)?))
}

/// As `read`, into several pieces.
pub fn read_vectored(stream: &TcpStream, pieces: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let room = pieces.iter().map(|piece| piece.len()).sum();
    read_with(stream, room, || Ok(rustix::io::readv(stream, &mut *pieces)?))
}

fn read_with(stream: &TcpStream, room: usize, mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let mut got = 0;
    let result = stream.try_io(Interest::READABLE, || {
        got = read()?;
        if got > 0 && got < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if got == 0 => Err(error),
        _ => Ok(got),
    }
}
