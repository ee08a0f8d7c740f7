//! The streams of a connection, in one sorted vector.

use crate::window::{ReceiveWindow, SendWindow};

/// How far a stream is on its way to a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No final answer yet.
    Asked,
    /// Answered with 2xx: data flows.
    Tunnel,
    /// Answered with another status (client only; the server forgets such a stream at once).
    Refused,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) phase: Phase,
    pub(crate) local_ended: bool,
    pub(crate) remote_ended: bool,
    pub(crate) send: SendWindow,
    pub(crate) receive: ReceiveWindow,
    /// Handed to the caller and not released.
    pub(crate) unreleased_bytes: u32,
    /// Position in the control output behind this stream's HEADERS.
    pub(crate) headers_end: u64,
    /// Set while a sender waits for a window: its place in the queue.
    pub(crate) waiting: Option<u64>,
}

impl Stream {
    /// Ended both ways. It may still hold bytes that the caller has not released.
    pub(crate) fn is_over(&self) -> bool {
        self.local_ended && self.remote_ended
    }
}

/// Sorted by id. Ids only grow, so a new stream goes to the end; there are a hundred or so, so a vector beats a map.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    sorted: Vec<Stream>,
    live: usize,
}

impl Streams {
    /// Streams that are open in at least one direction.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// All entries: live streams, and those that are over but hold bytes.
    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    pub(crate) fn push(&mut self, stream: Stream) {
        debug_assert!(self.sorted.last().is_none_or(|last| last.id < stream.id) && !stream.is_over());
        self.live += 1;
        self.sorted.push(stream);
    }

    /// The stream, if it is open in at least one direction.
    pub(crate) fn get(&mut self, id: u32) -> Option<&mut Stream> {
        self.any(id).filter(|stream| !stream.is_over())
    }

    /// The stream, over or not.
    pub(crate) fn any(&mut self, id: u32) -> Option<&mut Stream> {
        let index = self.index(id)?;
        self.sorted.get_mut(index)
    }

    /// Mark the stream as over; it stays as long as it holds bytes.
    pub(crate) fn close(&mut self, id: u32) {
        let Some(index) = self.index(id) else { return };
        let stream = &mut self.sorted[index];
        if !stream.is_over() {
            (stream.local_ended, stream.remote_ended) = (true, true);
            self.live -= 1;
        }
        self.sweep(id);
    }

    /// A direction has ended: count the stream out if that was the last one.
    pub(crate) fn end(&mut self, id: u32, direction: impl FnOnce(&mut Stream)) {
        let Some(stream) = self.get(id) else { return };
        direction(stream);
        if stream.is_over() {
            self.live -= 1;
            self.sweep(id);
        }
    }

    /// Remove the stream if it is over and holds nothing.
    pub(crate) fn sweep(&mut self, id: u32) {
        let Some(index) = self.index(id) else { return };
        if self.sorted[index].is_over() && self.sorted[index].unreleased_bytes == 0 {
            self.sorted.remove(index);
            if self.sorted.is_empty() {
                self.sorted = Vec::new();
            }
        }
    }

    pub(crate) fn live_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.sorted.iter_mut().filter(|stream| !stream.is_over())
    }

    pub(crate) fn capacity_bytes(&self) -> usize {
        self.sorted.capacity() * size_of::<Stream>()
    }

    fn index(&self, id: u32) -> Option<usize> {
        self.sorted.binary_search_by_key(&id, |stream| stream.id).ok()
    }
}
