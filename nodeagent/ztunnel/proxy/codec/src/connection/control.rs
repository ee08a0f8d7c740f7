//! Frames that steer: RST_STREAM, WINDOW_UPDATE, PING, GOAWAY and PRIORITY; and the errors that end one stream.

use super::receive::{Reading, cost, flow_control_error, frame_size_error, protocol_error, word};
use super::{Connection, DRAIN_PING, Draining, Role};
use crate::frame::{self, FrameHeader, MAX_STREAM_ID, flag};
use crate::stream::Phase;
use crate::{Code, ConnectionError, Event, StreamId};

/// HEADERS that may still come on a stream that we reset: an answer and its trailers.
const STRAY_HEADERS: u32 = 2;

impl Connection {
    /// The peer made a mistake that ends one stream. Such resets count as the peer's own, else making us reset would cost it nothing.
    pub(super) fn stream_error(&mut self, id: u32, code: Code) -> Result<(), ConnectionError> {
        self.charge_reset("streams broken again and again")?;
        self.check_output()?;
        self.write_reset(id, code);
        self.streams.close(id);
        self.pending.push_back(Event::Reset { stream: StreamId(id), code, by_peer: false });
        Ok(())
    }

    /// Queue RST_STREAM for a live stream, and expect what the peer sends before it has read that.
    pub(super) fn write_reset(&mut self, id: u32, code: Code) {
        frame::write_reset(id, code.0, &mut self.control);
        self.control_budget.earn(cost::SMALL_FRAME); // the peer's own reset may cross it
        if let Some(stream) = self.streams.get(id) {
            if !stream.remote_ended {
                self.stray_bytes += u64::from(stream.receive.available());
                self.stray_headers = self.stray_headers.saturating_add(STRAY_HEADERS);
            }
        }
    }

    pub(super) fn on_reset(&mut self, id: u32, code: u32) -> Result<(), ConnectionError> {
        if self.is_idle(id) {
            return Err(protocol_error("RST_STREAM on a stream that was never opened"));
        }
        let Some(stream) = self.streams.get(id) else {
            return self.charge(cost::SMALL_FRAME, "resets of closed streams without end");
        };
        let phase = stream.phase;
        // A tunnel that stood was paid for with a round trip; one given up before our answer is rapid reset.
        if self.role == Role::Server && phase == Phase::Asked {
            self.charge_reset("streams opened and reset again and again")?;
        }
        self.streams.close(id);
        self.earn_if_over(id, phase == Phase::Tunnel);
        self.pending.push_back(Event::Reset { stream: StreamId(id), code: Code(code), by_peer: true });
        Ok(())
    }

    pub(super) fn on_window_update(&mut self, id: u32, raw: u32) -> Result<(), ConnectionError> {
        self.charge(cost::SMALL_FRAME, "window updates without end")?;
        let increment = i64::from(raw & MAX_STREAM_ID);
        if id == 0 {
            if increment == 0 {
                return Err(protocol_error("a window update of nothing"));
            }
            if !self.send_window.shift(increment) {
                return Err(flow_control_error("the connection's window overflows"));
            }
            self.wake_senders();
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(protocol_error("WINDOW_UPDATE on a stream that was never opened"));
        }
        let connection_room = self.send_window.available();
        let Some(stream) = self.streams.get(id) else { return Ok(()) };
        if increment == 0 {
            return self.stream_error(id, Code::PROTOCOL_ERROR);
        }
        if !stream.send.shift(increment) {
            return self.stream_error(id, Code::FLOW_CONTROL_ERROR);
        }
        if connection_room > 0 && stream.send.available() > 0 && stream.waiting.take().is_some() {
            self.pending.push_back(Event::Writable { stream: StreamId(id) });
        }
        Ok(())
    }

    /// Tell every sender that waits and has room, the longest wait first. All of them, since those first told may have nothing left to send.
    pub(super) fn wake_senders(&mut self) {
        if self.send_window.available() == 0 {
            return;
        }
        let with_room = self.streams.live_mut().filter(|stream| stream.send.available() > 0);
        let mut woken: Vec<(u64, u32)> = with_room.filter_map(|stream| Some((stream.waiting.take()?, stream.id))).collect();
        woken.sort_unstable();
        self.pending.extend(woken.into_iter().map(|(_, id)| Event::Writable { stream: StreamId(id) }));
    }

    pub(super) fn on_ping(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some(&payload) = payload.first_chunk::<8>() else { return Err(frame_size_error("a PING has a wrong size")) };
        self.charge(cost::PING, "pings without end")?;
        if !header.has(flag::ACK) {
            self.check_output()?;
            frame::write_ping(payload, true, &mut self.control);
        } else if payload == DRAIN_PING && self.draining != Draining::No {
            self.finish_drain();
        } else if self.pings_outstanding > 0 {
            self.pings_outstanding -= 1;
            self.pending.push_back(Event::Pong { payload });
        }
        Ok(())
    }

    pub(super) fn on_goaway(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        self.charge(cost::GOAWAY, "GOAWAY again and again")?;
        let last_stream = word(payload) & MAX_STREAM_ID;
        let code = Code(word(&payload[4..]));
        if self.peer_goaway.is_some_and(|before| last_stream > before) {
            return Err(protocol_error("GOAWAY names a higher stream than before"));
        }
        self.peer_goaway = Some(last_stream);
        self.pending.push_back(Event::GoAway { last_stream, code });
        if self.role == Role::Client {
            let lost: Vec<u32> = self.streams.live_mut().map(|stream| stream.id).filter(|&id| id > last_stream).collect();
            for id in lost {
                self.streams.close(id);
                self.pending.push_back(Event::Reset { stream: StreamId(id), code: Code::REFUSED_STREAM, by_peer: true });
            }
        }
        Ok(())
    }

    /// PRIORITY is deprecated: read past, after its size was judged.
    pub(super) fn begin_priority(&mut self, header: FrameHeader) -> Result<Reading, ConnectionError> {
        self.charge(cost::SMALL_FRAME, "PRIORITY without end")?;
        if header.length != 5 {
            if self.is_idle(header.stream) {
                return Err(frame_size_error("PRIORITY has a wrong size"));
            }
            if self.streams.get(header.stream).is_some() {
                self.stream_error(header.stream, Code::FRAME_SIZE_ERROR)?;
            }
        }
        Ok(Reading::Skip { left: header.length })
    }
}
