//! Sending: opening and answering tunnels, DATA within the windows, and ending a stream.

use super::{Connection, Role};
use crate::frame::{self, HEADER_BYTES, MAX_STREAM_ID};
use crate::hpack::encoder;
use crate::stream::{Phase, Stream};
use crate::{Code, HeaderBlock, OpenError, SendError, StreamId};

/// Bytes sent that earn a token: a peer that reads in steps of 512 updates the windows of stream and connection for each.
const BYTES_PER_EARNED_TOKEN: usize = 256;
/// What each stream that we open earns: a refusal may bring a reset that we no longer wait for.
const OPEN_EARNS: u32 = 1;
/// What each DATA frame earns besides, so that frames of a few bytes may be answered likewise.
const FRAME_EARNS: u32 = 2;

impl Connection {
    /// Open a tunnel: the prebuilt `block`, then the `rest` of the fields, which differ from stream to stream.
    ///
    /// # Errors
    /// The connection takes no stream (now, or any more), or the headers cannot be sent.
    pub fn open(&mut self, block: &HeaderBlock, rest: &[(&str, &str)]) -> Result<StreamId, OpenError> {
        self.check_open()?;
        let mut fields = HeaderBlock { encoded: self.begin_block(), list_bytes: block.list_bytes };
        fields.encoded.extend_from_slice(&block.encoded);
        for (name, value) in rest {
            fields.push(name, value).map_err(|_| OpenError::BadHeader)?;
        }
        if fields.list_bytes > self.peer.max_header_list_bytes as usize {
            return Err(OpenError::HeadersTooLarge);
        }
        let id = self.next_stream;
        self.next_stream += 2;
        self.push_stream(id);
        self.write_headers(id, &fields.encoded, false);
        self.control_budget.earn(OPEN_EARNS);
        Ok(StreamId(id))
    }

    fn check_open(&self) -> Result<(), OpenError> {
        if self.role == Role::Server {
            return Err(OpenError::NotClient);
        }
        if self.failure.is_some() || self.is_draining() {
            return Err(OpenError::Draining);
        }
        if self.next_stream > MAX_STREAM_ID {
            return Err(OpenError::Exhausted);
        }
        if self.available_streams() == 0 {
            return Err(OpenError::TooManyStreams);
        }
        Ok(())
    }

    /// Answer a request. With 2xx the tunnel is open. Any other status refuses it: the stream ends both ways and is forgotten.
    ///
    /// # Errors
    /// The stream is closed or answered already, or the status is none.
    pub fn respond(&mut self, stream: StreamId, status: u16) -> Result<(), SendError> {
        let StreamId(id) = stream;
        let role = self.role;
        let entry = self.streams.get(id).ok_or(SendError::Closed)?;
        if role == Role::Client || entry.phase != Phase::Asked {
            return Err(SendError::AlreadyAnswered);
        }
        if !(200..600).contains(&status) {
            return Err(SendError::BadStatus);
        }
        let is_tunnel = status < 300;
        let remote_ended = entry.remote_ended;
        entry.phase = if is_tunnel { Phase::Tunnel } else { Phase::Refused };
        let mut block = self.begin_block();
        encoder::status(status, &mut block);
        self.write_headers(id, &block, !is_tunnel);
        if !is_tunnel {
            if !remote_ended {
                // The answer is complete; whatever else the client would send is not wanted (RFC 9113, section 8.1).
                self.write_reset(id, Code::NO_ERROR);
            }
            self.forget(id);
        }
        Ok(())
    }

    fn begin_block(&self) -> Vec<u8> {
        if self.table_update_sent { Vec::new() } else { vec![encoder::NO_TABLE] }
    }

    fn write_headers(&mut self, id: u32, block: &[u8], end: bool) {
        self.table_update_sent = true;
        frame::write_headers(id, block, end, self.peer.max_frame_bytes, &mut self.control);
        let headers_end = self.control_taken + self.control.len() as u64;
        if let Some(stream) = self.streams.get(id) {
            stream.headers_end = headers_end;
        }
    }

    /// How many payload bytes `stream` may carry now, in any number of frames: what both windows allow.
    /// Zero means that `Event::Writable` will follow.
    ///
    /// # Errors
    /// The stream is closed, or not answered with 2xx yet.
    pub fn sendable(&mut self, stream: StreamId) -> Result<usize, SendError> {
        let room = self.room(stream.0)?;
        if room == 0 {
            self.wait(stream.0);
        }
        Ok(room)
    }

    fn room(&mut self, id: u32) -> Result<usize, SendError> {
        let of_connection = self.send_window.available();
        Ok(self.sender(id)?.send.available().min(of_connection))
    }

    fn sender(&mut self, id: u32) -> Result<&mut Stream, SendError> {
        match self.streams.get(id) {
            None => Err(SendError::Closed),
            Some(stream) if stream.local_ended => Err(SendError::Closed),
            Some(stream) if stream.phase != Phase::Tunnel => Err(SendError::NotAnswered),
            Some(stream) => Ok(stream),
        }
    }

    fn wait(&mut self, id: u32) {
        let ticket = self.next_ticket;
        if let Some(stream) = self.streams.get(id) {
            if stream.waiting.is_none() {
                stream.waiting = Some(ticket);
                self.next_ticket += 1;
            }
        }
    }

    /// Append DATA frames to `out` (control output that waits goes ahead of them) and return how much of `payload` they took.
    /// When less than all, `Event::Writable` will follow. `end` takes effect only if all was taken; it needs no window of its own.
    ///
    /// # Errors
    /// The stream is closed, or not answered with 2xx yet.
    pub fn send_data(&mut self, stream: StreamId, payload: &[u8], end: bool, out: &mut Vec<u8>) -> Result<usize, SendError> {
        let StreamId(id) = stream;
        let mut room = self.room(id)?;
        self.take_control(out);
        let most = self.peer.max_frame_bytes as usize;
        let mut left = payload;
        while room > 0 || left.is_empty() {
            let (part, rest) = left.split_at(left.len().min(room).min(most));
            let is_last = end && rest.is_empty();
            if part.is_empty() && !is_last {
                break;
            }
            out.extend_from_slice(&frame::data_header(id, part.len(), is_last));
            out.extend_from_slice(part);
            self.account(id, part.len(), is_last);
            left = rest;
            if left.is_empty() {
                break;
            }
            room = self.room(id)?;
        }
        if !left.is_empty() {
            self.wait(id);
        }
        Ok(payload.len() - left.len())
    }

    /// The header of one DATA frame, for payload that was read right behind nine reserved bytes.
    /// Order: `take_control`, `sendable`, read that much at most, `frame_header` for each frame, none of them longer than the peer's
    /// `max_frame_bytes`.
    ///
    /// # Errors
    /// As `sendable`; also when `payload_bytes` is more than it allowed or than a frame takes, or the stream's HEADERS were not taken yet.
    pub fn frame_header(&mut self, stream: StreamId, payload_bytes: usize, end: bool) -> Result<[u8; HEADER_BYTES], SendError> {
        let StreamId(id) = stream;
        if payload_bytes > self.room(id)?.min(self.peer.max_frame_bytes as usize) {
            return Err(SendError::BeyondWindow);
        }
        let taken = self.control_taken;
        if self.sender(id)?.headers_end > taken {
            return Err(SendError::ControlPending);
        }
        debug_assert!(payload_bytes > 0 || end, "an empty frame that says nothing");
        self.account(id, payload_bytes, end);
        Ok(frame::data_header(id, payload_bytes, end))
    }

    fn account(&mut self, id: u32, bytes: usize, end: bool) {
        self.send_window.consume(bytes);
        let mut is_limited = self.send_window.available() == 0;
        if let Some(stream) = self.streams.get(id) {
            stream.send.consume(bytes);
            is_limited |= stream.send.available() == 0;
        }
        // A peer that dribbles its window out byte by byte does not earn by the frames that it forces.
        let by_frame = if is_limited { 0 } else { FRAME_EARNS };
        self.control_budget.earn(by_frame + (bytes / BYTES_PER_EARNED_TOKEN) as u32);
        if end {
            self.streams.end(id, |stream| stream.local_ended = true);
            self.earn_if_over(id, true);
        }
    }

    /// End the stream both ways and forget it, with all that was not released. No event of it follows.
    pub fn reset(&mut self, stream: StreamId, code: Code) {
        if self.streams.get(stream.0).is_some() {
            self.write_reset(stream.0, code);
        }
        self.forget(stream.0);
    }

    /// Drop the stream, what it holds, and the events of it that were not taken.
    fn forget(&mut self, id: u32) {
        self.pending.retain(|event| event.stream() != Some(StreamId(id)));
        if let Some(stream) = self.streams.any(id) {
            let held = std::mem::take(&mut stream.unreleased_bytes);
            self.release_connection(held);
            self.streams.close(id);
        }
    }
}
