//! Frames and descriptors over the agent's unix socket.

use crate::protocol::{MAX_MESSAGE_BYTES, ToProxy, decode};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroize;

/// A network namespace and at most this many listeners come with a message.
const MAX_DESCRIPTORS: usize = 16;
/// Small frames are gathered into one write of about this size.
const GATHER_BYTES: usize = 64 << 10;

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<Arc<OwnedFd>>,
}

/// The connection to the agent. Reading is cancel-safe: what has come of a frame is kept.
pub struct Link {
    stream: UnixStream,
    header: [u8; 4],
    header_filled: usize,
    body: Vec<u8>,
    body_filled: usize,
    descriptors: Vec<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
    queued_bytes: usize,
    /// All bytes that were ever queued.
    queued_total: u64,
}

impl Link {
    /// Dials the agent and checks that it is the user that we are.
    pub async fn dial(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        let agent = stream.peer_cred()?.uid();
        if agent != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the socket belongs to user {agent}")));
        }
        Ok(Self {
            stream,
            header: [0; 4],
            header_filled: 0,
            body: Vec::new(),
            body_filled: 0,
            descriptors: Vec::new(),
            outgoing: VecDeque::new(),
            queued_bytes: 0,
            queued_total: 0,
        })
    }

    /// The next message with its descriptors. Any error ends the session.
    ///
    /// A read never crosses the border of a frame, so that descriptors belong to the frame in whose header they came.
    pub async fn receive(&mut self) -> io::Result<(ToProxy, Vec<OwnedFd>)> {
        while self.header_filled < 4 {
            let rest = &mut self.header[self.header_filled..];
            self.header_filled += receive_some(&self.stream, rest, &mut self.descriptors).await?;
        }
        let length = u32::from_be_bytes(self.header) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(broken(format!("a message of {length} bytes")));
        }
        self.body.resize(length, 0);
        while self.body_filled < length {
            let mut late = Vec::new();
            self.body_filled += receive_some(&self.stream, &mut self.body[self.body_filled..], &mut late).await?;
            if !late.is_empty() {
                return Err(broken("descriptors in the middle of a message".into()));
            }
        }
        let message = decode(&self.body).map_err(broken)?;
        // A private key may have passed through here.
        self.body.zeroize();
        if self.body.capacity() > GATHER_BYTES {
            self.body = Vec::new();
        }
        (self.header_filled, self.body_filled) = (0, 0);
        Ok((message, std::mem::take(&mut self.descriptors)))
    }

    pub fn queue(&mut self, body: &[u8], descriptors: Vec<Arc<OwnedFd>>) {
        let length = u32::try_from(body.len()).expect("messages are cut well below the limit").to_be_bytes();
        self.queued_bytes += 4 + body.len();
        self.queued_total += 4 + body.len() as u64;
        if descriptors.is_empty() {
            if let Some(last) = self.outgoing.back_mut().filter(|last| last.descriptors.is_empty() && last.bytes.len() < GATHER_BYTES) {
                last.bytes.extend_from_slice(&length);
                last.bytes.extend_from_slice(body);
                return;
            }
        }
        let bytes = [&length, body].concat();
        self.outgoing.push_back(Outgoing { bytes, sent: 0, descriptors });
    }

    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The position behind the last byte that was queued.
    pub fn queued_position(&self) -> u64 {
        self.queued_total
    }

    /// The position behind the last byte that the kernel took.
    pub fn sent_position(&self) -> u64 {
        self.queued_total - self.queued_bytes as u64
    }

    /// Writes what fits now.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(front) = self.outgoing.front_mut() {
            match self.stream.try_io(Interest::WRITABLE, || send_some(&self.stream, front)) {
                Ok(sent) => {
                    front.sent += sent;
                    front.descriptors.clear();
                    self.queued_bytes -= sent;
                    if front.sent == front.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for the next message, writing meanwhile.
    pub async fn turn(&mut self) -> io::Result<(ToProxy, Vec<OwnedFd>)> {
        loop {
            self.flush()?;
            if self.outgoing.is_empty() {
                return self.receive().await;
            }
            let ready = self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
            if ready.is_readable() {
                return self.receive().await;
            }
        }
    }
}

async fn receive_some(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let read = stream.async_io(Interest::READABLE, || receive_once(stream, buffer, descriptors)).await?;
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
}

fn receive_once(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(rustix::net::ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
        return Err(broken("too many descriptors".into()));
    }
    Ok(received.bytes)
}

fn send_some(stream: &UnixStream, outgoing: &Outgoing) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = outgoing.descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(broken("too many descriptors to give back".into()));
    }
    Ok(sendmsg(stream.as_fd(), &[IoSlice::new(&outgoing.bytes[outgoing.sent..])], &mut control, SendFlags::NOSIGNAL)?)
}

fn broken(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
