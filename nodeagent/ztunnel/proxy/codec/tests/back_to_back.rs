//! A client and a server of ours, wired to each other through arbitrary cuts; and connections that are fed arbitrary bytes.

mod support;

use std::collections::HashMap;
use std::time::Instant;

use hbone_codec::{Code, Config, Connection, Event, HeaderBlock, Role, StreamId};
use proptest::prelude::*;
use support::*;

/// What one tunnel carries and how it ends.
#[derive(Clone, Debug)]
struct Plan {
    up: usize,
    down: usize,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    HalfClose,
    /// The client resets once this much came down.
    ResetAfter(usize),
    Refused,
}

fn plan() -> impl Strategy<Value = Plan> {
    let ending = prop_oneof![4 => Just(Ending::HalfClose), 1 => (0usize..90_000).prop_map(Ending::ResetAfter), 1 => Just(Ending::Refused)];
    (0usize..400_000, 0usize..400_000, ending).prop_map(|(up, down, ending)| Plan { up, down, ending })
}

fn config() -> impl Strategy<Value = Config> {
    (65_535u32..200_000, 16_384u32..100_000).prop_map(|(window, frame)| Config {
        stream_window_bytes: window,
        connection_window_bytes: window * 4,
        max_frame_bytes: frame,
        ..Config::default()
    })
}

fn byte(stream: StreamId, position: usize, down: bool) -> u8 {
    (position as u32).wrapping_mul(31).wrapping_add(stream.get() * 7 + u32::from(down)) as u8 ^ (position >> 8) as u8
}

/// One side: its connection, what it has sent and got, and bytes on their way to the other.
struct Side {
    connection: Connection,
    is_client: bool,
    wire: Vec<u8>,
    sent: HashMap<StreamId, usize>,
    got: HashMap<StreamId, usize>,
    unreleased: HashMap<StreamId, usize>,
    sending: Vec<StreamId>,
    ended: Vec<StreamId>,
    reset: Vec<StreamId>,
    window: usize,
}

impl Side {
    fn new(role: Role, config: Config) -> Self {
        Self {
            connection: Connection::new(role, config.check().unwrap(), Instant::now()),
            is_client: role == Role::Client,
            wire: Vec::new(),
            sent: HashMap::new(),
            got: HashMap::new(),
            unreleased: HashMap::new(),
            sending: Vec::new(),
            ended: Vec::new(),
            reset: Vec::new(),
            window: config.stream_window_bytes as usize,
        }
    }

    fn receive(&mut self, mut input: &[u8], plans: &[Plan], now: Instant) {
        let plan = |stream: StreamId| &plans[(stream.get() / 2) as usize];
        while let Some(event) = self.connection.receive(&mut input, now).expect("both sides are honest") {
            match event {
                Event::Request(request) => {
                    assert_eq!((request.malformed, request.authority.as_str()), (None, "10.0.0.1:80"));
                    let is_refused = plan(request.stream).ending == Ending::Refused;
                    self.connection.respond(request.stream, if is_refused { 401 } else { 200 }).unwrap();
                    if !is_refused {
                        self.sending.push(request.stream);
                    }
                }
                Event::Response { stream, status } => {
                    assert_eq!(status, if plan(stream).ending == Ending::Refused { 401 } else { 200 });
                    if status == 200 {
                        self.sending.push(stream);
                    } else {
                        self.connection.reset(stream, Code::CANCEL);
                        self.ended.push(stream);
                    }
                }
                Event::Data { stream, payload } => {
                    assert!(!self.ended.contains(&stream) && !self.reset.contains(&stream));
                    let got = self.got.entry(stream).or_default();
                    for (offset, &value) in payload.iter().enumerate() {
                        assert_eq!(value, byte(stream, *got + offset, self.is_client));
                    }
                    *got += payload.len();
                    *self.unreleased.entry(stream).or_default() += payload.len();
                    assert!(self.unreleased[&stream] <= self.window, "beyond the window");
                    if self.is_client && matches!(plan(stream).ending, Ending::ResetAfter(most) if *got >= most) {
                        self.connection.reset(stream, Code::CANCEL);
                        self.reset.push(stream);
                        self.sending.retain(|&other| other != stream);
                    }
                }
                Event::End { stream } => self.ended.push(stream),
                Event::Reset { stream, code, by_peer } => {
                    assert!(by_peer && code.is_end_of_stream());
                    self.reset.push(stream);
                    self.sending.retain(|&other| other != stream);
                }
                Event::Writable { .. } | Event::SettingsReceived(_) => {}
                Event::GoAway { .. } | Event::Pong { .. } => panic!("nobody asked"),
            }
        }
    }

    fn send(&mut self, plans: &[Plan], step: usize) {
        let streams = self.sending.clone();
        for stream in streams {
            let plan = &plans[(stream.get() / 2) as usize];
            let total = if self.is_client { plan.up } else { plan.down };
            let start = *self.sent.entry(stream).or_default();
            let payload: Vec<u8> = (start..total.min(start + step)).map(|position| byte(stream, position, !self.is_client)).collect();
            let end = start + payload.len() == total;
            let taken = self.connection.send_data(stream, &payload, end, &mut self.wire).unwrap();
            *self.sent.get_mut(&stream).unwrap() += taken;
            if end && taken == payload.len() {
                self.sending.retain(|&other| other != stream);
            }
        }
        self.connection.take_control(&mut self.wire);
    }

    fn release(&mut self, most: usize) {
        for (&stream, held) in &mut self.unreleased {
            let bytes = (*held).min(most);
            self.connection.release(stream, bytes);
            *held -= bytes;
        }
    }

    fn is_done(&self, stream: StreamId) -> bool {
        self.reset.contains(&stream) || (self.ended.contains(&stream) && !self.sending.contains(&stream))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_one_side_sends_the_other_gets(
        plans in prop::collection::vec(plan(), 1..6),
        client_config in config(),
        server_config in config(),
        cuts in prop::collection::vec(1usize..70_000, 1..20),
        steps in prop::collection::vec(1usize..50_000, 1..10),
        releases in prop::collection::vec(1usize..100_000, 1..10),
    ) {
        let now = Instant::now();
        let (mut client, mut server) = (Side::new(Role::Client, client_config), Side::new(Role::Server, server_config));
        let block = HeaderBlock::connect("10.0.0.1:80").unwrap();
        let streams: Vec<StreamId> = plans.iter().map(|_| client.connection.open(&block, &[("forwarded", "for=x")]).unwrap()).collect();
        let mut turn = 0;
        let refused = |stream: &StreamId| plans[(stream.get() / 2) as usize].ending == Ending::Refused;
        while !streams.iter().all(|stream| client.is_done(*stream) && (server.is_done(*stream) || refused(stream))) {
            turn += 1;
            prop_assert!(turn < 100_000, "no progress");
            client.send(&plans, steps[turn % steps.len()]);
            server.send(&plans, steps[(turn / 2) % steps.len()]);
            let cut = cuts[turn % cuts.len()];
            let up: Vec<u8> = client.wire.drain(..cut.min(client.wire.len())).collect();
            let down: Vec<u8> = server.wire.drain(..cut.min(server.wire.len())).collect();
            server.receive(&up, &plans, now);
            client.receive(&down, &plans, now);
            client.release(releases[turn % releases.len()]);
            server.release(releases[(turn / 3) % releases.len()]);
        }
        for (plan, stream) in plans.iter().zip(&streams) {
            if plan.ending == Ending::HalfClose {
                prop_assert_eq!(server.got.get(stream).copied().unwrap_or(0), plan.up);
                prop_assert_eq!(client.got.get(stream).copied().unwrap_or(0), plan.down);
            }
        }
        client.release(usize::MAX);
        server.release(usize::MAX);
        prop_assert_eq!((client.connection.open_streams(), server.connection.open_streams()), (0, 0));
    }

    /// Never a panic, never more memory than the configuration allows: pure noise.
    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 1usize..100) {
        feed_bounded(Role::Client, &bytes, cut)?;
        feed_bounded(Role::Server, &[PREFACE, &settings(&[]), &bytes].concat(), cut)?;
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(connect_block()),
        Just(vec![0, 0, 0, 1]),
        Just(vec![0; 8]),
        (0usize..20_000).prop_map(|length| vec![0; length]),
    ];
    let flags = prop_oneof![Just(0), Just(END_STREAM), Just(END_HEADERS), Just(END_HEADERS | END_STREAM), any::<u8>()];
    (0u8..11, flags, 0u32..8, payload).prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// The same, with frames that are nearly right, so that it gets further; the caller answers, sends, releases and resets meanwhile.
    #[test]
    fn nearly_right_frames(frames in prop::collection::vec(any_frame(), 0..60), cut in 1usize..5000) {
        feed_bounded(Role::Client, &[settings(&[]), frames.concat()].concat(), cut)?;
        feed_bounded(Role::Server, &[PREFACE, &settings(&[]), &frames.concat()].concat(), cut)?;
    }
}

fn feed_bounded(role: Role, bytes: &[u8], cut: usize) -> Result<(), TestCaseError> {
    let config = Config { max_header_list_bytes: 4096, ..Config::default() };
    let mut subject = Subject::new(role, config);
    if role == Role::Client {
        for _ in 0..4 {
            subject.open();
        }
    }
    let (mut out, mut number) = (Vec::new(), 0);
    for mut input in bytes.chunks(cut) {
        loop {
            let event = match subject.connection.receive(&mut input, subject.now) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => return Ok(()),
            };
            number += 1;
            let Some(stream) = event.stream() else { continue };
            if let Event::Data { payload, .. } = event {
                subject.connection.release(stream, payload.len() - number % 2);
            }
            if matches!(event, Event::Request(_)) {
                subject.connection.respond(stream, if number % 5 == 0 { 503 } else { 200 }).unwrap();
            }
            if subject.connection.send_data(stream, b"answer", number % 3 == 0, &mut out).is_ok() && number % 7 == 0 {
                subject.connection.reset(stream, Code::CANCEL);
            }
            prop_assert!(subject.connection.heap_bytes() < 64 << 10, "{} bytes", subject.connection.heap_bytes());
        }
        prop_assert!(input.is_empty());
    }
    Ok(())
}
