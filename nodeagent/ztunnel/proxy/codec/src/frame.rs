//! Frames on the wire (RFC 9113, section 4 and 6): kinds, flags, and the writing of those that we send.

pub(crate) const HEADER_BYTES: usize = 9;
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest frame that every peer takes.
pub(crate) const MIN_MAX_FRAME_BYTES: u32 = 16_384;
pub(crate) const MAX_WINDOW: i64 = (1 << 31) - 1;
pub(crate) const MAX_STREAM_ID: u32 = (1 << 31) - 1;

pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0x0;
    pub(crate) const HEADERS: u8 = 0x1;
    pub(crate) const PRIORITY: u8 = 0x2;
    pub(crate) const RST_STREAM: u8 = 0x3;
    pub(crate) const SETTINGS: u8 = 0x4;
    pub(crate) const PUSH_PROMISE: u8 = 0x5;
    pub(crate) const PING: u8 = 0x6;
    pub(crate) const GOAWAY: u8 = 0x7;
    pub(crate) const WINDOW_UPDATE: u8 = 0x8;
    pub(crate) const CONTINUATION: u8 = 0x9;
}

pub(crate) mod flag {
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 0x1;
    pub(crate) const ENABLE_PUSH: u16 = 0x2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
}

/// The first nine bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl FrameHeader {
    pub(crate) fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self { length: u32::from_be_bytes([0, l0, l1, l2]), kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_STREAM_ID }
    }

    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let [_, l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The header of a DATA frame.
pub(crate) fn data_header(stream: u32, length: usize, end: bool) -> [u8; HEADER_BYTES] {
    FrameHeader { length: length as u32, kind: kind::DATA, flags: if end { flag::END_STREAM } else { 0 }, stream }.encode()
}

/// HEADERS, and CONTINUATION when the block is larger than a frame.
pub(crate) fn write_headers(stream: u32, block: &[u8], end: bool, max_frame_bytes: u32, out: &mut Vec<u8>) {
    let mut parts = block.chunks(max_frame_bytes as usize).peekable();
    let mut kind = kind::HEADERS;
    let mut flags = if end { flag::END_STREAM } else { 0 };
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= flag::END_HEADERS;
        }
        write(kind, flags, stream, part, out);
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}

pub(crate) fn write_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    let payload: Vec<u8> = settings.iter().flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
    write(kind::SETTINGS, 0, 0, &payload, out);
}

pub(crate) fn write_settings_ack(out: &mut Vec<u8>) {
    write(kind::SETTINGS, flag::ACK, 0, &[], out);
}

pub(crate) fn write_ping(payload: [u8; 8], ack: bool, out: &mut Vec<u8>) {
    write(kind::PING, if ack { flag::ACK } else { 0 }, 0, &payload, out);
}

pub(crate) fn write_window_update(stream: u32, increment: u32, out: &mut Vec<u8>) {
    write(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes(), out);
}

pub(crate) fn write_reset(stream: u32, code: u32, out: &mut Vec<u8>) {
    write(kind::RST_STREAM, 0, stream, &code.to_be_bytes(), out);
}

pub(crate) fn write_goaway(last_stream: u32, code: u32, out: &mut Vec<u8>) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last_stream.to_be_bytes());
    payload[4..].copy_from_slice(&code.to_be_bytes());
    write(kind::GOAWAY, 0, 0, &payload, out);
}

fn write(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&FrameHeader { length: payload.len() as u32, kind, flags, stream }.encode());
    out.extend_from_slice(payload);
}
