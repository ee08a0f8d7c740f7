//! The peer's SETTINGS, and its acknowledgement of ours.

use super::receive::{cost, flow_control_error, protocol_error};
use super::{Connection, Role};
use crate::frame::{self, FrameHeader, MAX_WINDOW, MIN_MAX_FRAME_BYTES, flag, setting};
use crate::{ConnectionError, Event};

const LARGEST_MAX_FRAME_BYTES: u32 = (1 << 24) - 1;

impl Connection {
    pub(super) fn on_settings(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        if header.has(flag::ACK) {
            return self.on_settings_ack();
        }
        self.charge(cost::SETTINGS, "SETTINGS again and again")?;
        self.check_output()?;
        if !self.is_settings_received {
            self.is_settings_received = true;
            self.peer.max_streams = u32::MAX; // what RFC 9113 says of a peer that names no limit
        }
        for entry in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([entry[0], entry[1]]);
            self.apply_setting(id, u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))?;
        }
        frame::write_settings_ack(&mut self.control);
        self.pending.push_back(Event::SettingsReceived(self.peer));
        self.wake_senders();
        Ok(())
    }

    fn on_settings_ack(&mut self) -> Result<(), ConnectionError> {
        if self.is_settings_acknowledged {
            return Err(protocol_error("SETTINGS acknowledged twice"));
        }
        self.is_settings_acknowledged = true;
        self.decoder.disable_table();
        Ok(())
    }

    fn apply_setting(&mut self, id: u16, value: u32) -> Result<(), ConnectionError> {
        match id {
            setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                Err(protocol_error("ENABLE_PUSH has a wrong value"))
            }
            setting::MAX_CONCURRENT_STREAMS => {
                self.peer.max_streams = value;
                Ok(())
            }
            setting::INITIAL_WINDOW_SIZE => self.apply_initial_window(value),
            setting::MAX_FRAME_SIZE => {
                if !(MIN_MAX_FRAME_BYTES..=LARGEST_MAX_FRAME_BYTES).contains(&value) {
                    return Err(protocol_error("MAX_FRAME_SIZE has a wrong value"));
                }
                self.peer.max_frame_bytes = value;
                Ok(())
            }
            setting::MAX_HEADER_LIST_SIZE => {
                self.peer.max_header_list_bytes = value;
                Ok(())
            }
            // HEADER_TABLE_SIZE too: our encoder uses no table, whatever the peer offers.
            _ => Ok(()),
        }
    }

    /// The difference applies to streams that are open already, and may leave their windows negative.
    fn apply_initial_window(&mut self, value: u32) -> Result<(), ConnectionError> {
        if i64::from(value) > MAX_WINDOW {
            return Err(flow_control_error("INITIAL_WINDOW_SIZE is too large"));
        }
        let delta = i64::from(value) - i64::from(self.peer.initial_window_bytes);
        self.peer.initial_window_bytes = value;
        if !self.streams.live_mut().all(|stream| stream.send.shift(delta)) {
            return Err(flow_control_error("INITIAL_WINDOW_SIZE makes a window overflow"));
        }
        Ok(())
    }
}
