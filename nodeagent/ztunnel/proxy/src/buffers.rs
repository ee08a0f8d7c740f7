//! Memory that the connections of a worker share, so that an idle one holds none.

use rustix::pipe::{PipeFlags, pipe_with};
use std::cell::{RefCell, RefMut};
use std::io;
use std::os::fd::OwnedFd;

/// One read of a socket at most: large, since bulk costs less the more each turn moves, and shared, so that it costs no memory.
pub const READ_BYTES: usize = 512 << 10;
/// What a pipe holds.
pub const PIPE_BYTES: usize = 128 << 10;
const SPARE_BUFFERS: usize = 8;
const SPARE_PIPES: usize = 16;
/// A larger buffer is freed rather than kept.
const KEEP_BYTES: usize = 1 << 20;

pub struct Pipe {
    pub read: OwnedFd,
    pub write: OwnedFd,
}

pub struct Buffers {
    receive: RefCell<Box<[u8]>>,
    send: RefCell<Box<[u8]>>,
    spare: RefCell<Vec<Vec<u8>>>,
    pipes: RefCell<Vec<Pipe>>,
}

impl Default for Buffers {
    fn default() -> Self {
        let scratch = || RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
        Self { receive: scratch(), send: scratch(), spare: RefCell::default(), pipes: RefCell::default() }
    }
}

impl Buffers {
    /// Where a tunnel's socket is read to; never held across an await.
    pub fn receive(&self) -> RefMut<'_, Box<[u8]>> {
        self.receive.borrow_mut()
    }

    /// Where an application's socket is read to; never held across an await.
    pub fn send(&self) -> RefMut<'_, Box<[u8]>> {
        self.send.borrow_mut()
    }

    pub fn take(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS && (1..=KEEP_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            spare.push(buffer);
        }
    }

    pub fn take_pipe(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.pipes.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Refused where the user's pipes have used up their pages; the usual size works too.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Pipe { read, write })
    }

    /// Takes an empty pipe back.
    pub fn give_pipe(&self, pipe: Pipe) {
        let mut pipes = self.pipes.borrow_mut();
        if pipes.len() < SPARE_PIPES {
            pipes.push(pipe);
        }
    }
}
