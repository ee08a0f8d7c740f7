//! Payload of one stream that came in one read of the tunnel: passed on to its application by one write.

use super::Stream;
use hbone_codec::Connection;
use std::io::IoSlice;
use std::rc::Rc;

/// What one write takes at most: a read of full records has nine, peers that send small frames make more.
const MAX_PIECES: usize = 64;

/// Holds pieces of what was read until something else than more of the same stream comes.
#[derive(Default)]
pub struct Gathered<'i> {
    stream: Option<Rc<Stream>>,
    pieces: Vec<IoSlice<'i>>,
}

impl<'i> Gathered<'i> {
    pub fn add(&mut self, codec: &mut Connection, stream: Rc<Stream>, payload: &'i [u8]) {
        let goes_on = self.stream.as_ref().is_some_and(|current| Rc::ptr_eq(current, &stream));
        if !goes_on || self.pieces.len() == MAX_PIECES {
            self.deliver(codec);
        }
        self.stream = Some(stream);
        self.pieces.push(IoSlice::new(payload));
    }

    /// Passes on what was gathered, and lets the peer send as much again as was taken.
    pub fn deliver(&mut self, codec: &mut Connection) {
        let Some(stream) = self.stream.take() else { return };
        let taken = stream.deliver(&self.pieces);
        codec.release(stream.id, taken);
        self.pieces.clear();
    }
}
