//! What hostile peers do (ends the connection or the stream, within bounds), and what only looks hostile (does not).

mod support;

use std::time::Duration;

use hbone_codec::{Code, Config, Connection, ConnectionError, FloodLimits, Role, SendError};
use support::*;

/// The floods must end: far more rounds than any budget.
const FOREVER: usize = 100_000;

fn assert_calm((rounds, error): (usize, ConnectionError), at_most: usize) {
    assert_eq!(error.code, Code::ENHANCE_YOUR_CALM, "{error}");
    assert!(rounds <= at_most, "{rounds} rounds: {error}");
    assert!(rounds >= 64, "an honest peer may do it {rounds} times only: {error}");
}

fn odd(round: usize) -> u32 {
    round as u32 * 2 + 1
}

// --- floods

#[test]
fn rapid_reset() {
    assert_calm(Subject::server().flood(FOREVER, |round| [connect(odd(round)), rst(odd(round), Code::CANCEL)].concat()), 256);
}

#[test]
fn tunnels_that_stood_may_be_reset_at_any_rate() {
    let mut server = Subject::server();
    for round in 0..10_000 {
        server.tunnel(odd(round));
        server.feed(&rst(odd(round), Code::CANCEL)).unwrap();
    }
}

#[test]
fn refused_streams_again_and_again() {
    let mut server = Subject::server_with(Config { max_streams: 1, ..Config::default() });
    server.tunnel(1);
    assert_calm(server.flood(FOREVER, |round| connect(odd(round + 1))), 256);
    assert!(server.connection.is_closed());
}

/// The frames of one attempt, on a stream of its own.
type Form<'a> = &'a dyn Fn(u32) -> Vec<u8>;

/// The peer makes us reset, by each of the ways known: our resets count against its budget.
#[test]
fn made_you_reset() {
    let half_closed = |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &connect_block());
    let forms: [(&str, Form); 6] = [
        ("window update of zero", &|id| [connect(id), window_update(id, 0)].concat()),
        ("window update that overflows", &|id| [connect(id), window_update(id, (1 << 31) - 1)].concat()),
        ("DATA on a half-closed stream", &|id| [half_closed(id), frame(DATA, 0, id, b"x")].concat()),
        ("HEADERS on a half-closed stream", &|id| [half_closed(id), connect(id)].concat()),
        ("PRIORITY of a wrong size", &|id| [connect(id), frame(PRIORITY, 0, id, b"four")].concat()),
        ("HEADERS on an open stream", &|id| [connect(id), connect(id)].concat()),
    ];
    for (name, form) in forms {
        let mut server = Subject::server();
        let events = server.feed(&form(1)).unwrap();
        assert!(matches!(events.last(), Some(Seen::Reset(1, _, false))), "{name}: {events:?}");
        assert_eq!(server.written().last().unwrap().kind, RST_STREAM, "{name}");
        assert_eq!(server.connection.open_streams(), 0, "{name}");
        assert_calm(server.flood(FOREVER, |round| form(odd(round + 1))), 256);
    }
}

#[test]
fn malformed_requests_again_and_again() {
    let mut server = Subject::server();
    let mut result = Ok(());
    let mut rounds = 0;
    while result.is_ok() && rounds < FOREVER {
        let fields = [(":method", "GET"), (":authority", "10.0.0.1:80")];
        result = server.feed(&frame(HEADERS, END_HEADERS, odd(rounds), &block(&fields))).map(|_| ());
        if result.is_ok() {
            server.connection.respond(server.streams[rounds], 400).unwrap();
            server.written();
        }
        rounds += 1;
    }
    assert_calm((rounds - 1, result.unwrap_err()), 256);
}

#[test]
fn frames_that_carry_nothing() {
    let floods: [(&str, Vec<u8>, usize); 8] = [
        ("PING", frame(PING, 0, 0, b"01234567"), 1024),
        ("PING answers", frame(PING, ACK, 0, b"01234567"), 1024),
        ("SETTINGS", settings(&[(0x4, 70_000)]), 128),
        ("empty DATA", frame(DATA, 0, 1, b""), 1024),
        ("padded empty DATA", frame(DATA, PADDED, 1, &[1, 0]), 1024),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0; 5]), 4096),
        ("window updates", window_update(1, 1), 4096),
        ("unknown frames", frame(0xee, 0xff, 1, b"whatever"), 4096),
    ];
    for (name, input, at_most) in floods {
        let mut server = Subject::server();
        server.tunnel(1);
        let result = server.flood(FOREVER, |_| input.clone());
        println!("{name}: {} rounds", result.0);
        assert_calm(result, at_most);
    }
}

#[test]
fn large_unknown_frames_cost_more() {
    assert_calm(Subject::server().flood(FOREVER, |_| frame(0xee, 0, 0, &[0; 16_384])), 4096 / 16);
}

#[test]
fn goaway_again_and_again() {
    assert_calm(Subject::server().flood(FOREVER, |_| goaway(0, Code::NO_ERROR)), 256);
}

#[test]
fn resets_of_closed_streams() {
    let mut server = Subject::server();
    server.tunnel(1);
    server.feed(&rst(1, Code::CANCEL)).unwrap();
    assert_calm(server.flood(FOREVER, |_| rst(1, Code::CANCEL)), 4096);
}

#[test]
fn informational_answers() {
    let mut client = Subject::client(&[]);
    client.open();
    assert_calm(client.flood(FOREVER, |_| response(1, "100", 0)), 4096);
}

#[test]
fn a_budget_comes_back_with_time() {
    let mut server = Subject::server();
    for _ in 0..40 {
        for _ in 0..200 {
            server.feed(&frame(PING, 0, 0, b"01234567")).unwrap();
            server.written();
        }
        server.wait(Duration::from_secs(1));
    }
}

#[test]
fn window_updates_that_follow_data_cost_nothing() {
    let mut server = Subject::server();
    let stream = server.tunnel(1);
    let mut out = Vec::new();
    for _ in 0..20_000 {
        server.connection.send_data(stream, &[0; 1000], false, &mut out).unwrap();
        server.feed(&[window_update(1, 500), window_update(0, 500), window_update(1, 500), window_update(0, 500)].concat()).unwrap();
        out.clear();
    }
}

#[test]
fn a_window_dribbled_out_byte_by_byte() {
    let mut server = Subject::new(Role::Server, Config::default());
    server.feed(&[PREFACE, &settings(&[(0x4, 0)])].concat()).unwrap();
    let stream = server.tunnel(1);
    assert_eq!(server.connection.sendable(stream), Ok(0));
    let (mut rounds, mut out) = (0, Vec::new());
    let error = loop {
        match server.feed(&window_update(1, 1)) {
            Ok(events) => assert_eq!(events, [Seen::Writable(1)]),
            Err(error) => break error,
        }
        server.connection.send_data(stream, b"xx", false, &mut out).unwrap();
        rounds += 1;
    };
    assert_calm((rounds, error), 4096);
}

#[test]
fn answers_that_the_peer_does_not_read_are_bounded() {
    let mut server = Subject::server_with(Config {
        flood: FloodLimits { control_burst: 1_000_000, control_output_bytes: 2048, ..Config::default().flood },
        ..Config::default()
    });
    let mut rounds = 0;
    let error = loop {
        if let Err(error) = server.feed(&frame(PING, 0, 0, b"01234567")) {
            break error;
        }
        rounds += 1;
        assert!(server.connection.heap_bytes() < 8192);
    };
    assert_calm((rounds, error), 2048 / 17 + 1);
}

// --- header blocks

#[test]
fn continuation_flood() {
    let mut server = Subject::server();
    server.feed(&frame(HEADERS, 0, 1, &connect_block())).unwrap();
    let (rounds, error) = server.flood(FOREVER, |_| frame(CONTINUATION, 0, 1, b""));
    assert_eq!((rounds, error.code), (5, Code::ENHANCE_YOUR_CALM));
}

#[test]
fn a_block_that_grows() {
    let mut server = Subject::server();
    server.feed(&frame(HEADERS, 0, 1, &[0; 10_000])).unwrap();
    assert_eq!(server.fatal(&frame(CONTINUATION, 0, 1, &[0; 10_000])), Code::ENHANCE_YOUR_CALM);
    assert_eq!(Subject::server().fatal(&frame(HEADERS, END_HEADERS, 1, &vec![0; 20_000])), Code::ENHANCE_YOUR_CALM);
    // Judged by its header: nothing of it is kept.
    let mut server = Subject::server();
    assert_eq!(server.fatal(&frame(HEADERS, END_HEADERS, 1, &vec![0; 1 << 20])[..9]), Code::ENHANCE_YOUR_CALM);
}

#[test]
fn a_header_bomb() {
    let mut bomb = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    bomb.extend([b'x'; 4000]);
    bomb.extend([0xbe; 10_000]);
    let mut server = Subject::server();
    assert_eq!(server.fatal(&frame(HEADERS, END_HEADERS, 1, &bomb)), Code::ENHANCE_YOUR_CALM);
    assert!(server.streams.is_empty());
}

#[test]
fn a_broken_block_ends_the_connection() {
    for broken in [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x00, 0x05, b'a'], &[0x3f, 0xff, 0xff, 0x03]] {
        assert_eq!(Subject::server().fatal(&frame(HEADERS, END_HEADERS, 1, broken)), Code::COMPRESSION_ERROR, "{broken:x?}");
    }
}

#[test]
fn interrupted_blocks() {
    let open = frame(HEADERS, 0, 1, &connect_block());
    for other in
        [connect(3), frame(DATA, 0, 1, b"x"), frame(PING, 0, 0, &[0; 8]), frame(CONTINUATION, END_HEADERS, 3, b""), frame(0xee, 0, 0, b"")]
    {
        assert_eq!(Subject::server().fatal(&[open.clone(), other].concat()), Code::PROTOCOL_ERROR);
    }
    assert_eq!(Subject::server().fatal(&frame(CONTINUATION, END_HEADERS, 1, b"")), Code::PROTOCOL_ERROR);
    let mut server = Subject::server();
    let block = connect_block();
    let (start, rest) = block.split_at(7);
    let whole = [frame(HEADERS, 0, 1, start), frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, END_HEADERS, 1, rest)].concat();
    assert!(matches!(&server.feed(&whole).unwrap()[..], [Seen::Request(request)] if request.authority == "10.0.0.1:80"));
}

// --- errors that end the connection

#[test]
fn openings_that_are_none() {
    let cases: [(&[u8], Code); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", Code::PROTOCOL_ERROR),
        (b"\x16\x03\x01", Code::PROTOCOL_ERROR),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", Code::PROTOCOL_ERROR),
        (&[PREFACE, &connect(1)].concat(), Code::PROTOCOL_ERROR),
        (&[PREFACE, &frame(SETTINGS, ACK, 0, b"")].concat(), Code::PROTOCOL_ERROR),
        (&[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(), Code::PROTOCOL_ERROR),
    ];
    for (input, code) in cases {
        assert_eq!(Subject::new(Role::Server, Config::default()).fatal(input), code);
    }
    assert_eq!(Subject::new(Role::Client, Config::default()).fatal(&frame(PING, 0, 0, &[0; 8])), Code::PROTOCOL_ERROR);
}

#[test]
fn a_slow_preface_is_told() {
    let mut server = Subject::new(Role::Server, Config::default());
    for byte in [PREFACE, &settings(&[])].concat() {
        assert!(!server.connection.is_established());
        server.feed(&[byte]).unwrap();
    }
    assert!(server.connection.is_established());
}

#[test]
fn what_a_server_bears_from_no_client() {
    let ended = || [connect(1), rst(1, Code::CANCEL)].concat();
    let after = |frame: Vec<u8>| [ended(), frame].concat();
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("an even stream", connect(2), Code::PROTOCOL_ERROR),
        ("stream zero", connect(0), Code::PROTOCOL_ERROR),
        ("a stream again", after(connect(1)), Code::STREAM_CLOSED),
        ("a lower stream", [connect(5), connect(3)].concat(), Code::STREAM_CLOSED),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), Code::PROTOCOL_ERROR),
        ("DATA on stream zero", frame(DATA, 0, 0, b"x"), Code::PROTOCOL_ERROR),
        ("DATA on a closed stream", after(frame(DATA, 0, 1, b"x")), Code::STREAM_CLOSED),
        ("WINDOW_UPDATE on an idle stream", window_update(1, 1), Code::PROTOCOL_ERROR),
        ("RST_STREAM on an idle stream", rst(1, Code::CANCEL), Code::PROTOCOL_ERROR),
        ("RST_STREAM on stream zero", rst(0, Code::CANCEL), Code::PROTOCOL_ERROR),
        ("RST_STREAM of a wrong size", frame(RST_STREAM, 0, 1, b"xyz"), Code::FRAME_SIZE_ERROR),
        ("connection window update of zero", window_update(0, 0), Code::PROTOCOL_ERROR),
        ("connection window overflow", window_update(0, (1 << 31) - 1), Code::FLOW_CONTROL_ERROR),
        ("WINDOW_UPDATE of a wrong size", frame(WINDOW_UPDATE, 0, 0, b"abc"), Code::FRAME_SIZE_ERROR),
        ("PING of a wrong size", frame(PING, 0, 0, b"seven.."), Code::FRAME_SIZE_ERROR),
        ("PING on a stream", frame(PING, 0, 1, b"01234567"), Code::PROTOCOL_ERROR),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), Code::PROTOCOL_ERROR),
        ("SETTINGS of a wrong size", frame(SETTINGS, 0, 0, b"12345"), Code::FRAME_SIZE_ERROR),
        ("SETTINGS ACK with payload", frame(SETTINGS, ACK, 0, b"123456"), Code::FRAME_SIZE_ERROR),
        ("SETTINGS acknowledged twice", frame(SETTINGS, ACK, 0, b"").repeat(2), Code::PROTOCOL_ERROR),
        ("SETTINGS with too many entries", frame(SETTINGS, 0, 0, &[0; 6 * 65]), Code::ENHANCE_YOUR_CALM),
        ("a small max frame", settings(&[(0x5, 16_383)]), Code::PROTOCOL_ERROR),
        ("a large max frame", settings(&[(0x5, 1 << 24)]), Code::PROTOCOL_ERROR),
        ("a large initial window", settings(&[(0x4, 1 << 31)]), Code::FLOW_CONTROL_ERROR),
        (
            "an initial window that overflows another",
            [connect(1), window_update(1, (1 << 31) - 1 - 65_535), settings(&[(0x4, 65_536)])].concat(),
            Code::FLOW_CONTROL_ERROR,
        ),
        ("ENABLE_PUSH of two", settings(&[(0x2, 2)]), Code::PROTOCOL_ERROR),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 9]), Code::PROTOCOL_ERROR),
        ("a frame too large", frame(DATA, 0, 1, &vec![0; (1 << 20) + 1])[..9].to_vec(), Code::FRAME_SIZE_ERROR),
        ("PRIORITY on stream zero", frame(PRIORITY, 0, 0, &[0; 5]), Code::PROTOCOL_ERROR),
        ("PRIORITY of a wrong size on an idle stream", frame(PRIORITY, 0, 1, &[0; 4]), Code::FRAME_SIZE_ERROR),
        ("GOAWAY of a wrong size", frame(GOAWAY, 0, 0, b"1234567"), Code::FRAME_SIZE_ERROR),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR),
        ("GOAWAY that takes back", [goaway(1, Code::NO_ERROR), goaway(3, Code::NO_ERROR)].concat(), Code::PROTOCOL_ERROR),
        ("GOAWAY with a book in it", frame(GOAWAY, 0, 0, &vec![0; 100_000])[..9].to_vec(), Code::ENHANCE_YOUR_CALM),
        ("padding longer than DATA", [connect(1), frame(DATA, PADDED, 1, &[5, 0, 0, 0, 0])].concat(), Code::PROTOCOL_ERROR),
        ("padded DATA without a pad length", [connect(1), frame(DATA, PADDED, 1, b"")].concat(), Code::FRAME_SIZE_ERROR),
        ("padding longer than HEADERS", frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x88]), Code::PROTOCOL_ERROR),
        ("padded HEADERS without a pad length", frame(HEADERS, END_HEADERS | PADDED, 1, b""), Code::PROTOCOL_ERROR),
        ("HEADERS shorter than their priority", frame(HEADERS, END_HEADERS | 0x20, 1, b"1234"), Code::PROTOCOL_ERROR),
    ];
    for (name, input, code) in cases {
        assert_eq!(Subject::server().fatal(&input), code, "{name}");
        // And the same however it is cut.
        let mut server = Subject::server();
        let error = input.iter().find_map(|byte| server.feed(&[*byte]).err());
        assert_eq!(error.map(|error| error.code), Some(code), "{name}, byte by byte");
    }
}

#[test]
fn what_a_client_bears_from_no_server() {
    let cases: [(&str, Vec<u8>, Code); 6] = [
        ("an answer to nothing", response(3, "200", 0), Code::PROTOCOL_ERROR),
        ("HEADERS on an even stream", response(2, "200", 0), Code::PROTOCOL_ERROR),
        ("DATA on an even stream", frame(DATA, 0, 2, b"x"), Code::PROTOCOL_ERROR),
        ("push", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), Code::PROTOCOL_ERROR),
        ("push switched on", settings(&[(0x2, 1)]), Code::PROTOCOL_ERROR),
        (
            "HEADERS after the end",
            [response(1, "200", END_STREAM), rst(1, Code::CANCEL), response(1, "200", 0)].concat(),
            Code::STREAM_CLOSED,
        ),
    ];
    for (name, input, code) in cases {
        let mut client = Subject::client(&[]);
        client.open();
        assert_eq!(client.fatal(&input), code, "{name}");
    }
}

#[test]
fn beyond_a_window() {
    let mut server = Subject::server();
    server.tunnel(1);
    for _ in 0..4 {
        server.feed(&frame(DATA, 0, 1, &vec![0; 1 << 20])).unwrap();
    }
    assert_eq!(server.fatal(&frame(DATA, 0, 1, b"x")[..9]), Code::FLOW_CONTROL_ERROR, "the stream's");

    let mut server = Subject::server();
    for id in [1, 3, 5, 7] {
        server.tunnel(id);
        for _ in 0..4 {
            server.feed(&frame(DATA, 0, id, &vec![0; 1 << 20])).unwrap();
        }
    }
    server.tunnel(9);
    assert_eq!(server.fatal(&frame(DATA, 0, 9, b"x")[..9]), Code::FLOW_CONTROL_ERROR, "the connection's");
}

// --- errors that end a stream

#[test]
fn what_ends_a_clients_stream() {
    let cases: [(&str, Vec<u8>, Code); 6] = [
        ("DATA ahead of the answer", frame(DATA, 0, 1, b"x"), Code::PROTOCOL_ERROR),
        ("no status", frame(HEADERS, END_HEADERS, 1, &block(&[("a", "b")])), Code::PROTOCOL_ERROR),
        ("a status that is none", response(1, "2oo", 0), Code::PROTOCOL_ERROR),
        ("an informational end", response(1, "103", END_STREAM), Code::PROTOCOL_ERROR),
        ("HEADERS in a tunnel", [response(1, "200", 0), response(1, "200", 0)].concat(), Code::PROTOCOL_ERROR),
        ("DATA after the end", [response(1, "200", END_STREAM), frame(DATA, 0, 1, b"x")].concat(), Code::STREAM_CLOSED),
    ];
    for (name, input, code) in cases {
        let mut client = Subject::client(&[]);
        let stream = client.open();
        let events = client.feed(&input).unwrap();
        assert_eq!(events.last(), Some(&Seen::Reset(1, code, false)), "{name}");
        assert_eq!(client.written().pop().unwrap(), parse(&rst(1, code))[0], "{name}");
        assert_eq!(client.connection.sendable(stream), Err(SendError::Closed), "{name}");
    }
}

#[test]
fn what_crosses_our_reset_is_borne_as_far_as_it_can_be_honest() {
    let mut server = Subject::server();
    let stream = server.tunnel(1);
    server.connection.reset(stream, Code::CANCEL);
    for _ in 0..4 {
        assert_eq!(server.feed(&frame(DATA, 0, 1, &vec![0; 1 << 20])).unwrap(), []);
    }
    assert_eq!(server.fatal(&frame(DATA, 0, 1, b"x")), Code::STREAM_CLOSED, "a whole window came already");

    let mut client = Subject::client(&[]);
    let stream = client.open();
    client.connection.reset(stream, Code::CANCEL);
    assert_eq!(client.feed(&[response(1, "200", 0), frame(DATA, END_STREAM, 1, b"late")].concat()).unwrap(), []);
}

#[test]
fn what_is_dropped_goes_back_to_the_connections_window() {
    let mut server = Subject::server();
    for round in 0..10 {
        let stream = server.tunnel(odd(round));
        server.connection.reset(stream, Code::CANCEL);
        for _ in 0..4 {
            server.feed(&frame(DATA, 0, odd(round), &vec![0; 1 << 20])).unwrap();
        }
    }
}

#[test]
fn padding_goes_back_at_once() {
    let mut server = Subject::server();
    let stream = server.tunnel(1);
    let mut payload = [0; 257];
    payload[0] = 255;
    for _ in 0..100_000 {
        let events = server.feed(&frame(DATA, PADDED, 1, &payload)).unwrap();
        assert_eq!(events, [Seen::Data(1, vec![0])]);
        server.connection.release(stream, 1);
        server.written();
    }
}

#[test]
fn memory_is_that_of_the_streams() {
    let mut server = Subject::server();
    for id in 0..100 {
        server.tunnel(odd(id));
    }
    assert!(server.connection.heap_bytes() + size_of::<Connection>() < 24 << 10, "{}", server.connection.heap_bytes());
}

#[test]
fn refusals_that_the_peer_does_not_read_are_bounded() {
    let mut server = Subject::server();
    let error = (0..FOREVER).find_map(|round| {
        assert!(server.connection.heap_bytes() < 256 << 10, "memory grows");
        let error = server.feed(&connect(odd(round))).err();
        if error.is_none() {
            server.connection.respond(server.streams[round], 401).unwrap();
        }
        error
    });
    assert_eq!(error.expect("borne without end").code, Code::ENHANCE_YOUR_CALM);
}

#[test]
fn refusals_may_come_at_any_rate() {
    let mut client = Subject::client(&[]);
    let mut server = Subject::server();
    for round in 0..10_000 {
        let stream = client.open();
        client.feed(&response(odd(round), "401", END_STREAM)).unwrap();
        client.connection.reset(stream, Code::CANCEL);
        client.feed(&rst(odd(round), Code::NO_ERROR)).unwrap();
        client.written();

        server.feed(&connect(odd(round))).unwrap();
        server.connection.respond(server.streams[round], 401).unwrap();
        server.feed(&rst(odd(round), Code::CANCEL)).unwrap();
        server.written();
    }
}
