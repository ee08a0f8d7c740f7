//! DATA coming in, and the windows that it uses.

use super::receive::{Reading, cost, flow_control_error, frame_size_error, protocol_error};
use super::{Connection, Role};
use crate::frame::{self, FrameHeader, flag};
use crate::stream::Phase;
use crate::{Code, ConnectionError, Event, StreamId};

/// Control tokens that a finished tunnel earns: its peer may have sent a few useless frames around its end.
const TUNNEL_EARNS: u32 = 8;

impl Connection {
    pub(super) fn begin_data(&mut self, header: FrameHeader) -> Result<Reading, ConnectionError> {
        if self.is_idle(header.stream) {
            return Err(protocol_error("DATA on a stream that was never opened"));
        }
        if !self.receive_window.consume(header.length) {
            return Err(flow_control_error("DATA beyond the connection's window"));
        }
        match (header.has(flag::PADDED), header.length) {
            (false, length) => self.begin_data_payload(header, length, 0),
            (true, 0) => Err(frame_size_error("a padded frame without a pad length")),
            (true, _) => Ok(Reading::PadLength(header)),
        }
    }

    /// Account for a whole frame once its parts are known. Padding is given back at once.
    pub(super) fn begin_data_payload(&mut self, header: FrameHeader, payload: u32, padding: u32) -> Result<Reading, ConnectionError> {
        let FrameHeader { stream: id, length, .. } = header;
        let end = header.has(flag::END_STREAM);
        if payload == 0 && !end {
            self.charge(cost::EMPTY_DATA, "empty DATA frames without end")?;
        }
        self.release_connection(length - payload);
        let role = self.role;
        match self.streams.get(id) {
            None => self.take_stray(length)?,
            Some(stream) if stream.remote_ended => self.stream_error(id, Code::STREAM_CLOSED)?,
            Some(stream) if role == Role::Client && stream.phase == Phase::Asked => self.stream_error(id, Code::PROTOCOL_ERROR)?,
            Some(stream) => {
                if !stream.receive.consume(length) {
                    return Err(flow_control_error("DATA beyond its stream's window"));
                }
                if let Some(increment) = stream.receive.release(length - payload) {
                    frame::write_window_update(id, increment, &mut self.control);
                }
            }
        }
        Ok(Reading::Data { stream: id, left: payload, padding, end })
    }

    /// DATA on a stream that is over: right only as far as the peer could not know that we reset it.
    fn take_stray(&mut self, length: u32) -> Result<(), ConnectionError> {
        let left = self.stray_bytes.checked_sub(u64::from(length));
        self.stray_bytes = left.ok_or(ConnectionError { code: Code::STREAM_CLOSED, detail: "DATA on a closed stream" })?;
        Ok(())
    }

    /// Whether `bytes` of payload go to the caller; else they are given back to the connection's window.
    pub(super) fn hand_over(&mut self, id: u32, bytes: u32) -> bool {
        if let Some(stream) = self.streams.get(id).filter(|stream| !stream.remote_ended) {
            stream.unreleased_bytes += bytes;
            return true;
        }
        self.release_connection(bytes);
        false
    }

    pub(super) fn end_remote(&mut self, id: u32) {
        if let Some(stream) = self.streams.get(id).filter(|stream| !stream.remote_ended) {
            let is_tunnel = stream.phase == Phase::Tunnel;
            self.pending.push_back(Event::End { stream: StreamId(id) });
            self.streams.end(id, |stream| stream.remote_ended = true);
            self.earn_if_over(id, is_tunnel);
        }
    }

    pub(super) fn earn_if_over(&mut self, id: u32, is_tunnel: bool) {
        if is_tunnel && self.streams.get(id).is_none() {
            self.control_budget.earn(TUNNEL_EARNS);
        }
    }

    /// Say that `bytes` of the stream's data were passed on, so that the peer may send as much again.
    /// A stream that is gone is ignored.
    pub fn release(&mut self, stream: StreamId, bytes: usize) {
        let StreamId(id) = stream;
        let Some(entry) = self.streams.any(id) else { return };
        debug_assert!(bytes <= entry.unreleased_bytes as usize, "more released than was handed over");
        let bytes = entry.unreleased_bytes.min(u32::try_from(bytes).unwrap_or(u32::MAX));
        entry.unreleased_bytes -= bytes;
        if !entry.remote_ended {
            if let Some(increment) = entry.receive.release(bytes) {
                frame::write_window_update(id, increment, &mut self.control);
            }
        }
        self.release_connection(bytes);
        self.streams.sweep(id);
    }

    pub(super) fn release_connection(&mut self, bytes: u32) {
        if let Some(increment) = self.receive_window.release_shared(bytes) {
            frame::write_window_update(0, increment, &mut self.control);
        }
    }
}
