//! A peer made by hand: frames as bytes, and a connection under test that is fed them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::time::{Duration, Instant};

use hbone_codec::{Code, Config, Connection, ConnectionError, Event, HeaderBlock, Request, Role, StreamId};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

pub fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = entries.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn rst(stream: u32, code: Code) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

pub fn goaway(last: u32, code: Code) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.0.to_be_bytes()].concat())
}

/// A block of literals without indexing.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127);
        out.extend([0, name.len() as u8]);
        out.extend(name.as_bytes());
        out.push(value.len() as u8);
        out.extend(value.as_bytes());
    }
    out
}

pub fn connect_block() -> Vec<u8> {
    block(&[(":method", "CONNECT"), (":authority", "10.0.0.1:80")])
}

pub fn connect(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &connect_block())
}

pub fn response(stream: u32, status: &str, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(&[(":status", status)]))
}

/// One frame that the connection under test wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Written {
    pub fn word(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

pub fn parse(mut bytes: &[u8]) -> Vec<Written> {
    bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        frames.push(Written { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..9 + length].to_vec() });
        bytes = &bytes[9 + length..];
    }
    frames
}

/// An event that owns its bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Request(Box<Request>),
    Response(u32, u16),
    Data(u32, Vec<u8>),
    End(u32),
    Reset(u32, Code, bool),
    Writable(u32),
    Settings,
    GoAway(u32, Code),
    Pong([u8; 8]),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Request(request) => Self::Request(request),
            Event::Response { stream, status } => Self::Response(stream.get(), status),
            Event::Data { stream, payload } => Self::Data(stream.get(), payload.to_vec()),
            Event::End { stream } => Self::End(stream.get()),
            Event::Reset { stream, code, by_peer } => Self::Reset(stream.get(), code, by_peer),
            Event::Writable { stream } => Self::Writable(stream.get()),
            Event::SettingsReceived(_) => Self::Settings,
            Event::GoAway { last_stream, code } => Self::GoAway(last_stream, code),
            Event::Pong { payload } => Self::Pong(payload),
        }
    }
}

/// A connection under test whose peer is this test.
pub struct Subject {
    pub connection: Connection,
    pub now: Instant,
    /// Streams in the order they were opened or asked for.
    pub streams: Vec<StreamId>,
}

impl Subject {
    pub fn new(role: Role, config: Config) -> Self {
        let now = Instant::now();
        Self { connection: Connection::new(role, config.check().unwrap(), now), now, streams: Vec::new() }
    }

    /// A server that has seen preface and SETTINGS, its opening taken.
    pub fn server() -> Self {
        Self::server_with(Config::default())
    }

    pub fn server_with(config: Config) -> Self {
        let mut subject = Self::new(Role::Server, config);
        subject.feed(&[PREFACE, &settings(&[])].concat()).unwrap();
        subject.written();
        subject
    }

    /// A client whose server has sent these SETTINGS, its opening taken.
    pub fn client(entries: &[(u16, u32)]) -> Self {
        let mut subject = Self::new(Role::Client, Config::default());
        subject.feed(&settings(entries)).unwrap();
        subject.written();
        subject
    }

    pub fn open(&mut self) -> StreamId {
        let stream = self.connection.open(&HeaderBlock::connect("10.0.0.1:80").unwrap(), &[]).unwrap();
        self.streams.push(stream);
        stream
    }

    /// A stream that the peer opened and we answered with 200.
    pub fn tunnel(&mut self, id: u32) -> StreamId {
        self.feed(&connect(id)).unwrap();
        let stream = *self.streams.last().unwrap();
        self.connection.respond(stream, 200).unwrap();
        self.written();
        stream
    }

    /// All events of `input`.
    pub fn feed(&mut self, mut input: &[u8]) -> Result<Vec<Seen>, ConnectionError> {
        let mut seen = Vec::new();
        while let Some(event) = self.connection.receive(&mut input, self.now)? {
            if let Event::Request(request) = &event {
                self.streams.push(request.stream);
            }
            seen.push(event.into());
        }
        assert!(input.is_empty(), "None while there is input");
        Ok(seen)
    }

    /// The code that ends the connection when `input` comes, which the GOAWAY must tell too.
    pub fn fatal(&mut self, input: &[u8]) -> Code {
        let error = self.feed(input).expect_err("the peer got away with it");
        assert_eq!(self.feed(&[]), Err(error), "the error stays");
        assert!(self.connection.is_closed());
        let last = self.written().pop().unwrap();
        assert_eq!((last.kind, last.payload[4..].to_vec()), (GOAWAY, error.code.0.to_be_bytes().to_vec()));
        error.code
    }

    /// Feed rounds of `input` until the connection fails; the number of rounds that it bore.
    pub fn flood(&mut self, most: usize, mut input: impl FnMut(usize) -> Vec<u8>) -> (usize, ConnectionError) {
        for round in 0..most {
            let result = self.feed(&input(round));
            assert!(self.connection.heap_bytes() < 256 << 10, "memory grows: {}", self.connection.heap_bytes());
            if let Err(error) = result {
                return (round, error);
            }
            self.written();
        }
        panic!("borne without end");
    }

    pub fn written(&mut self) -> Vec<Written> {
        let mut out = Vec::new();
        self.connection.take_control(&mut out);
        parse(&out)
    }

    pub fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}
