//! HEADERS and CONTINUATION coming in: gathering a block within bounds, and what it means on its stream.

use super::receive::{calm, cost, protocol_error};
use super::{Connection, Draining, Role};
use crate::frame::{self, FrameHeader, MIN_MAX_FRAME_BYTES, flag, kind};
use crate::hpack::HpackError;
use crate::message::{RequestFields, ResponseFields};
use crate::stream::{Phase, Stream};
use crate::window::{ReceiveWindow, SendWindow};
use crate::{Code, ConnectionError, Event, Request, StreamId};

/// CONTINUATION frames above what a block of the largest size needs.
const SPARE_CONTINUATIONS: u32 = 4;

/// A header block of which the end has not come.
#[derive(Debug)]
pub(super) struct BlockInProgress {
    stream: u32,
    end_stream: bool,
    bytes: Vec<u8>,
    continuations_left: u32,
}

impl BlockInProgress {
    pub(super) fn capacity_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Connection {
    /// While a block is open, nothing but its CONTINUATION may come, on any stream.
    pub(super) fn check_block_order(&self, header: FrameHeader) -> Result<(), ConnectionError> {
        let is_continuation = header.kind == kind::CONTINUATION;
        match &self.block {
            Some(block) if !is_continuation || header.stream != block.stream => Err(protocol_error("a header block is interrupted")),
            None if is_continuation => Err(protocol_error("CONTINUATION of nothing")),
            _ => Ok(()),
        }
    }

    pub(super) fn on_headers(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        let fragment = strip(header, payload)?;
        let end_stream = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.on_block(header.stream, end_stream, fragment);
        }
        let continuations_left = SPARE_CONTINUATIONS + self.config.max_header_list_bytes / MIN_MAX_FRAME_BYTES;
        self.block = Some(BlockInProgress { stream: header.stream, end_stream, bytes: fragment.to_vec(), continuations_left });
        Ok(())
    }

    pub(super) fn on_continuation(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some(mut block) = self.block.take() else { return Err(protocol_error("CONTINUATION of nothing")) };
        if block.continuations_left == 0 {
            return Err(calm("a header block in too many pieces"));
        }
        block.continuations_left -= 1;
        if block.bytes.len() + payload.len() > self.config.max_header_list_bytes as usize {
            return Err(calm("a header block is larger than allowed"));
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flag::END_HEADERS) {
            return self.on_block(block.stream, block.end_stream, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    fn on_block(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), ConnectionError> {
        if !self.is_idle(id) {
            return self.on_known_stream(id, end, block);
        }
        if self.role == Role::Client || id % 2 == 0 {
            return Err(protocol_error("HEADERS on a stream that the peer may not open"));
        }
        self.last_peer_stream = id;
        let limit = self.config.max_streams as usize;
        // Streams that are over count once they pile up: the caller still holds their bytes.
        if self.streams.live() >= limit || self.streams.len() >= 2 * limit || matches!(self.draining, Draining::Final { .. }) {
            return self.refuse(id, end, block);
        }
        self.on_request(id, end, block)
    }

    fn on_request(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), ConnectionError> {
        self.check_output()?; // the caller's answer is output too
        let mut fields = RequestFields::default();
        self.decode(block, |name, value| fields.push(name, value))?;
        let (authority, headers, malformed) = fields.finish();
        if malformed.is_some() {
            self.charge_reset("malformed requests again and again")?;
        }
        self.push_stream(id);
        self.pending.push_back(Event::Request(Box::new(Request { stream: StreamId(id), authority, headers, malformed })));
        if end {
            self.end_remote(id);
        }
        Ok(())
    }

    /// More streams than allowed, or after the last GOAWAY: the peer may try elsewhere.
    fn refuse(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), ConnectionError> {
        self.decode(block, |_, _| ())?;
        if matches!(self.draining, Draining::Final { .. }) {
            self.charge(cost::SMALL_FRAME, "streams after GOAWAY without end")?;
        } else {
            self.charge_reset("more streams than allowed again and again")?;
        }
        self.check_output()?;
        frame::write_reset(id, Code::REFUSED_STREAM.0, &mut self.control);
        if !end {
            self.stray_bytes += u64::from(self.config.stream_window_bytes);
            self.stray_headers = self.stray_headers.saturating_add(1);
        }
        Ok(())
    }

    fn on_known_stream(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), ConnectionError> {
        let mut fields = ResponseFields::default();
        self.decode(block, |name, value| fields.push(name, value))?;
        let role = self.role;
        match self.streams.get(id) {
            None => {
                let left = self.stray_headers.checked_sub(1);
                self.stray_headers = left.ok_or(ConnectionError { code: Code::STREAM_CLOSED, detail: "HEADERS on a closed stream" })?;
                Ok(())
            }
            Some(stream) if stream.remote_ended => self.stream_error(id, Code::STREAM_CLOSED),
            // On a tunnel only DATA may come (RFC 9113, section 8.5), and a client has nothing to add while it waits for one.
            Some(stream) if role == Role::Server || stream.phase == Phase::Tunnel => self.stream_error(id, Code::PROTOCOL_ERROR),
            Some(stream) if stream.phase == Phase::Refused && end && fields.is_trailers() => {
                self.end_remote(id);
                Ok(())
            }
            Some(stream) if stream.phase == Phase::Refused => self.stream_error(id, Code::PROTOCOL_ERROR),
            Some(_) => self.on_response(id, end, fields.status()),
        }
    }

    fn on_response(&mut self, id: u32, end: bool, status: Option<u16>) -> Result<(), ConnectionError> {
        let status = match status {
            Some(100..=199) if !end => return self.charge(cost::SMALL_FRAME, "informational answers without end"),
            Some(status @ 200..) => status,
            _ => return self.stream_error(id, Code::PROTOCOL_ERROR),
        };
        if let Some(stream) = self.streams.get(id) {
            stream.phase = if status < 300 { Phase::Tunnel } else { Phase::Refused };
        }
        self.pending.push_back(Event::Response { stream: StreamId(id), status });
        if end {
            self.end_remote(id);
        }
        Ok(())
    }

    pub(super) fn push_stream(&mut self, id: u32) {
        self.streams.push(Stream {
            id,
            phase: Phase::Asked,
            local_ended: false,
            remote_ended: false,
            send: SendWindow::new(self.peer.initial_window_bytes),
            receive: ReceiveWindow::new(self.config.stream_window_bytes),
            unreleased_bytes: 0,
            headers_end: 0,
            waiting: None,
        });
    }

    /// Every block is decoded, wanted or not: the table of the next one depends on it.
    fn decode(&mut self, block: &[u8], sink: impl FnMut(&[u8], &[u8])) -> Result<(), ConnectionError> {
        let limit = self.config.max_header_list_bytes as usize;
        self.decoder.decode(block, limit, sink).map_err(|error| match error {
            HpackError::TooLarge => calm(error.detail()),
            _ => ConnectionError { code: Code::COMPRESSION_ERROR, detail: error.detail() },
        })
    }
}

/// The header block fragment of HEADERS, without padding and priority.
fn strip(header: FrameHeader, payload: &[u8]) -> Result<&[u8], ConnectionError> {
    let too_short = protocol_error("HEADERS are shorter than their fields");
    let (padding, mut rest) = match (header.has(flag::PADDED), payload.split_first()) {
        (false, _) => (0, payload),
        (true, Some((&padding, rest))) => (usize::from(padding), rest),
        (true, None) => return Err(too_short),
    };
    if header.has(flag::PRIORITY) {
        rest = rest.get(5..).ok_or(too_short)?;
    }
    let length = rest.len().checked_sub(padding).ok_or(protocol_error("padding is longer than its frame"))?;
    Ok(&rest[..length])
}
