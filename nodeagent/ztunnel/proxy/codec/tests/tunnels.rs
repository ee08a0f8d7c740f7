//! What honest peers do: opening, answering, data both ways, half-close, windows, drain.

mod support;

use hbone_codec::{Code, Config, Connection, HeaderBlock, OpenError, Role, SendError};
use std::time::Instant;
use support::*;

#[test]
fn a_client_opens_with_preface_settings_and_window() {
    let mut client = Connection::new(Role::Client, Config::default().check().unwrap(), Instant::now());
    let mut out = Vec::new();
    client.take_control(&mut out);
    assert!(out.starts_with(PREFACE));
    let frames = parse(&out);
    assert_eq!((frames[0].kind, frames[0].payload.len()), (SETTINGS, 30));
    assert_eq!((frames[1].kind, frames[1].word()), (WINDOW_UPDATE, (16 << 20) - 65_535));
    assert!(!client.has_control() && !client.is_established());
}

#[test]
fn a_request_is_told_in_full() {
    let mut server = Subject::server();
    let fields = [(":method", "CONNECT"), (":authority", "[2001:db8::1]:80"), ("baggage", "k=v"), ("forwarded", "for=x")];
    let events = server.feed(&frame(HEADERS, END_HEADERS, 1, &block(&fields))).unwrap();
    let [Seen::Request(request)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((request.authority.as_str(), request.malformed), ("[2001:db8::1]:80", None));
    assert_eq!(request.headers.get("forwarded"), Some(&b"for=x"[..]));
    assert_eq!(request.headers.get("baggage"), Some(&b"k=v"[..]));
    assert_eq!(server.connection.open_streams(), 1);
}

#[test]
fn a_malformed_request_is_a_request_still() {
    let mut server = Subject::server();
    let fields = [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), (":scheme", "https"), (":path", "/")];
    let events = server.feed(&frame(HEADERS, END_HEADERS, 1, &block(&fields))).unwrap();
    let [Seen::Request(request)] = &events[..] else { panic!("{events:?}") };
    assert!(request.malformed.is_some());
    server.connection.respond(request.stream, 400).unwrap();
    let frames = server.written();
    assert_eq!((frames[0].kind, frames[0].flags, &frames[0].payload[..]), (HEADERS, END_HEADERS | END_STREAM, &[0x20, 0x8c][..]));
    assert_eq!((frames[1].kind, frames[1].word()), (RST_STREAM, 0));
    assert_eq!(server.connection.open_streams(), 0);
    // The client's bytes that crossed the answer are dropped, and given back.
    assert_eq!(server.feed(&frame(DATA, END_STREAM, 1, b"early")).unwrap(), []);
}

#[test]
fn data_is_handed_on_as_it_comes() {
    let mut server = Subject::server();
    let stream = server.tunnel(1);
    let whole = frame(DATA, END_STREAM, 1, b"abcdef");
    assert_eq!(server.feed(&whole[..9 + 2]).unwrap(), [Seen::Data(1, b"ab".into())]);
    assert_eq!(server.feed(&whole[9 + 2..9 + 5]).unwrap(), [Seen::Data(1, b"cde".into())]);
    assert_eq!(server.feed(&whole[9 + 5..]).unwrap(), [Seen::Data(1, b"f".into()), Seen::End(1)]);
    server.connection.release(stream, 6);
    let mut out = Vec::new();
    assert_eq!(server.connection.send_data(stream, b"still", true, &mut out), Ok(5));
    assert_eq!(out, frame(DATA, END_STREAM, 1, b"still"), "half-closed streams still send");
    assert_eq!(server.connection.send_data(stream, b"", true, &mut out), Err(SendError::Closed));
    assert_eq!(server.connection.open_streams(), 0);
}

#[test]
fn an_end_comes_at_once_and_alone() {
    let mut server = Subject::server();
    server.tunnel(1);
    assert_eq!(server.feed(&frame(DATA, END_STREAM, 1, b"")).unwrap(), [Seen::End(1)]);
    server.tunnel(3);
    let padded = frame(DATA, END_STREAM | PADDED, 3, &[3, b'x', 0, 0, 0]);
    assert_eq!(server.feed(&padded[..11]).unwrap(), [Seen::Data(3, b"x".into()), Seen::End(3)], "padding is not waited for");
    assert_eq!(server.feed(&padded[11..]).unwrap(), []);
}

#[test]
fn nothing_flows_before_the_answer() {
    let mut client = Subject::client(&[]);
    let stream = client.open();
    let mut out = Vec::new();
    assert_eq!(client.connection.send_data(stream, b"early", false, &mut out), Err(SendError::NotAnswered));
    assert_eq!(client.connection.sendable(stream), Err(SendError::NotAnswered));
    assert!(out.is_empty());
    assert_eq!(client.feed(&response(1, "200", 0)).unwrap(), [Seen::Response(1, 200)]);
    assert_eq!(client.connection.send_data(stream, b"now", false, &mut out), Ok(3));

    let refused = client.open();
    assert_eq!(client.feed(&response(3, "401", END_STREAM)).unwrap(), [Seen::Response(3, 401), Seen::End(3)]);
    assert_eq!(client.connection.send_data(refused, b"x", false, &mut out), Err(SendError::NotAnswered));

    let mut server = Subject::server();
    server.feed(&connect(1)).unwrap();
    let asked = server.streams[0];
    assert_eq!(server.connection.send_data(asked, b"x", false, &mut out), Err(SendError::NotAnswered));
    assert_eq!(server.connection.respond(asked, 199), Err(SendError::BadStatus));
    server.connection.respond(asked, 200).unwrap();
    assert_eq!(server.connection.respond(asked, 200), Err(SendError::AlreadyAnswered));
}

#[test]
fn informational_answers_are_passed_over() {
    let mut client = Subject::client(&[]);
    client.open();
    let input = [response(1, "103", 0), response(1, "200", 0)].concat();
    assert_eq!(client.feed(&input).unwrap(), [Seen::Response(1, 200)]);
}

#[test]
fn payload_may_be_read_behind_a_reserved_header() {
    let mut server = Subject::server();
    server.feed(&connect(1)).unwrap();
    let stream = server.streams[0];
    server.connection.respond(stream, 200).unwrap();
    assert_eq!(server.connection.frame_header(stream, 1, false), Err(SendError::ControlPending), "DATA ahead of its HEADERS");
    server.written();
    let room = server.connection.sendable(stream).unwrap();
    assert_eq!(room, 65_535);
    assert_eq!(server.connection.frame_header(stream, 16_385, false), Err(SendError::BeyondWindow), "the peer's frame size");
    for part in [16_384, 16_384, 16_384] {
        assert_eq!(server.connection.frame_header(stream, part, false).unwrap()[..3], (part as u32).to_be_bytes()[1..]);
    }
    assert_eq!(server.connection.frame_header(stream, 16_384, false), Err(SendError::BeyondWindow), "the window");
    assert_eq!(server.connection.frame_header(stream, 5, true).unwrap()[..], frame(DATA, END_STREAM, 1, b"12345")[..9]);
    assert_eq!(server.connection.sendable(stream), Err(SendError::Closed));
}

#[test]
fn the_peers_windows_and_frame_size_bound_what_is_sent() {
    let mut client = Subject::client(&[(0x4, 100_000), (0x5, 20_000)]);
    let (first, second) = (client.open(), client.open());
    client.feed(&[response(1, "200", 0), response(3, "200", 0)].concat()).unwrap();
    client.written();
    let (mut out, payload) = (Vec::new(), vec![7; 200_000]);
    assert_eq!(client.connection.send_data(first, &payload, true, &mut out), Ok(65_535), "the connection's window");
    let sizes: Vec<usize> = parse(&out).iter().map(|frame| frame.payload.len()).collect();
    assert_eq!(sizes, [20_000, 20_000, 20_000, 5_535]);
    assert_eq!(client.connection.sendable(second), Ok(0));
    assert_eq!(client.feed(&window_update(3, 1)).unwrap(), [], "the connection's window is closed still");
    assert_eq!(client.feed(&window_update(0, 1_000_000)).unwrap(), [Seen::Writable(1), Seen::Writable(3)], "the longest wait first");
    out.clear();
    assert_eq!(client.connection.send_data(first, &payload[65_535..], true, &mut out), Ok(34_465), "the stream's window");
    assert_eq!(client.feed(&window_update(1, 200_000)).unwrap(), [Seen::Writable(1)]);
    assert_eq!(client.connection.send_data(first, &payload[100_000..], true, &mut out), Ok(100_000));
    assert_eq!(parse(&out).last().unwrap().flags, END_STREAM);
}

#[test]
fn settings_change_the_windows_of_open_streams() {
    let mut client = Subject::client(&[(0x4, 1000)]);
    let stream = client.open();
    client.feed(&response(1, "200", 0)).unwrap();
    let mut out = Vec::new();
    assert_eq!(client.connection.send_data(stream, &[0; 2000], false, &mut out), Ok(1000));
    assert_eq!(client.feed(&settings(&[(0x4, 400)])).unwrap(), [Seen::Settings]);
    assert_eq!(client.feed(&window_update(1, 600)).unwrap(), [], "from -600 to 0");
    assert_eq!(client.connection.sendable(stream), Ok(0));
    assert_eq!(client.feed(&settings(&[(0x4, 401)])).unwrap(), [Seen::Settings, Seen::Writable(1)]);
    assert_eq!(client.connection.sendable(stream), Ok(1));
}

#[test]
fn released_bytes_open_the_windows_again() {
    let mut server = Subject::server();
    let stream = server.tunnel(1);
    let chunk = frame(DATA, 0, 1, &vec![0; 1 << 20]);
    server.feed(&chunk).unwrap();
    server.feed(&chunk).unwrap();
    assert!(server.written().is_empty(), "not released yet");
    server.connection.release(stream, (2 << 20) - 1);
    assert!(server.written().is_empty(), "half the window has not gathered");
    server.connection.release(stream, 1);
    let frames = server.written();
    assert_eq!((frames.len(), frames[0].stream, frames[0].word()), (1, 1, 2 << 20));
}

#[test]
fn what_a_lost_stream_held_goes_back_to_the_connection() {
    let mut server = Subject::server();
    let tunnels = [1, 3, 5].map(|id| (id, server.tunnel(id)));
    for (id, stream) in tunnels {
        for _ in 0..4 {
            server.feed(&frame(DATA, 0, id, &vec![0; 1 << 20])).unwrap();
        }
        server.connection.reset(stream, Code::CANCEL);
    }
    let updates: u32 = server.written().iter().filter(|frame| frame.kind == WINDOW_UPDATE).map(Written::word).sum();
    assert!(updates >= 8 << 20, "{updates}");
}

#[test]
fn a_stream_that_is_over_counts_until_it_is_released() {
    let mut server = Subject::server_with(Config { max_streams: 2, ..Config::default() });
    let mut out = Vec::new();
    for id in [1, 3, 5, 7] {
        let stream = server.tunnel(id);
        server.feed(&frame(DATA, END_STREAM, id, b"held")).unwrap();
        server.connection.send_data(stream, b"", true, &mut out).unwrap();
    }
    assert_eq!(server.connection.open_streams(), 0);
    assert_eq!(server.feed(&connect(9)).unwrap(), []);
    assert_eq!(server.written(), parse(&rst(9, Code::REFUSED_STREAM)));
    let held = server.streams[0];
    server.connection.release(held, 4);
    assert_eq!(server.feed(&connect(11)).unwrap().len(), 1);
}

#[test]
fn a_reset_ends_both_ways() {
    let mut server = Subject::server();
    let stream = server.tunnel(1);
    server.feed(&frame(DATA, 0, 1, b"tail")).unwrap();
    assert_eq!(server.feed(&rst(1, Code::CANCEL)).unwrap(), [Seen::Reset(1, Code::CANCEL, true)]);
    assert!(Code::CANCEL.is_end_of_stream() && Code::NO_ERROR.is_end_of_stream() && !Code::CONNECT_ERROR.is_end_of_stream());
    assert_eq!(server.connection.sendable(stream), Err(SendError::Closed));
    server.connection.release(stream, 4); // what came before may still be delivered
    server.connection.reset(stream, Code::CANCEL);
    assert!(server.written().is_empty(), "nothing to say about a stream that is gone");
}

#[test]
fn no_event_of_a_stream_after_its_reset() {
    let mut server = Subject::server();
    let mut input = &frame(HEADERS, END_HEADERS | END_STREAM, 1, &connect_block())[..];
    let request = server.connection.receive(&mut input, server.now).unwrap().unwrap();
    server.connection.reset(request.stream().unwrap(), Code::CANCEL);
    assert_eq!(server.connection.receive(&mut input, server.now), Ok(None));
}

#[test]
fn a_reset_in_the_middle_of_a_frame_drops_its_rest() {
    let mut server = Subject::server();
    let stream = server.tunnel(1);
    let whole = frame(DATA, END_STREAM, 1, &[0; 100]);
    server.feed(&whole[..50]).unwrap();
    server.connection.reset(stream, Code::CANCEL);
    assert_eq!(server.feed(&whole[50..]).unwrap(), []);
    assert_eq!(server.feed(&frame(PING, 0, 0, b"in step?")).unwrap(), []);
    assert_eq!(server.written().last().unwrap().payload, b"in step?");
}

#[test]
fn what_limits_opening() {
    let block = HeaderBlock::connect("10.0.0.1:80").unwrap();
    let mut client = Subject::new(Role::Client, Config::default());
    let opened = (0..100).take_while(|_| client.connection.open(&block, &[]).is_ok()).count();
    assert_eq!(opened, 16, "before SETTINGS");
    assert_eq!(client.connection.open(&block, &[]), Err(OpenError::TooManyStreams));
    client.feed(&settings(&[(0x3, 17), (0x6, 200)])).unwrap();
    assert_eq!(client.connection.available_streams(), 1);
    let long = "x".repeat(200);
    assert_eq!(client.connection.open(&block, &[("baggage", &long)]), Err(OpenError::HeadersTooLarge));
    assert_eq!(client.connection.open(&block, &[("Bad", "x")]), Err(OpenError::BadHeader));
    assert!(client.connection.open(&block, &[("forwarded", "for=x")]).is_ok());
    assert_eq!(client.connection.open(&block, &[]), Err(OpenError::TooManyStreams));
    let mut server = Subject::server();
    assert_eq!(server.connection.open(&block, &[]), Err(OpenError::NotClient));
}

#[test]
fn a_large_block_goes_out_in_continuations() {
    let mut client = Subject::client(&[]);
    let long = "x".repeat(40_000);
    client.connection.open(&HeaderBlock::connect("10.0.0.1:80").unwrap(), &[("baggage", &long)]).unwrap();
    let kinds: Vec<(u8, u8)> = client.written().iter().map(|frame| (frame.kind, frame.flags)).collect();
    assert_eq!(kinds, [(HEADERS, 0), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)]);
}

#[test]
fn the_peers_goaway_gives_up_what_it_did_not_see() {
    let mut client = Subject::client(&[]);
    client.open();
    client.open();
    let events = client.feed(&goaway(1, Code::NO_ERROR)).unwrap();
    assert_eq!(events, [Seen::GoAway(1, Code::NO_ERROR), Seen::Reset(3, Code::REFUSED_STREAM, true)]);
    assert_eq!(client.connection.open(&HeaderBlock::connect("a:1").unwrap(), &[]), Err(OpenError::Draining));
    assert!(client.connection.is_draining() && !client.connection.is_closed());
    client.feed(&rst(1, Code::NO_ERROR)).unwrap();
    assert!(client.connection.is_closed());
}

#[test]
fn a_server_drains_in_two_steps() {
    let mut server = Subject::server();
    let first = server.tunnel(1);
    server.connection.drain();
    let frames = server.written();
    assert_eq!((frames[0].kind, frames[0].word(), frames[1].kind), (GOAWAY, (1 << 31) - 1, PING));
    assert_eq!(server.feed(&connect(3)).unwrap().len(), 1, "on its way already");
    assert_eq!(server.feed(&frame(PING, ACK, 0, &frames[1].payload)).unwrap(), []);
    assert_eq!(server.written()[0].word(), 3);
    assert_eq!(server.feed(&connect(5)).unwrap(), []);
    assert_eq!(server.written(), parse(&rst(5, Code::REFUSED_STREAM)));
    assert!(!server.connection.is_closed());
    let second = server.streams[1];
    server.connection.reset(first, Code::CANCEL);
    server.connection.reset(second, Code::CANCEL);
    assert!(server.connection.is_closed());
    server.written();
    server.connection.close(Code::NO_ERROR);
    assert_eq!(server.written()[0].word(), 3, "the last stream never grows");
}

#[test]
fn a_server_finishes_its_drain_without_the_peers_acknowledgement() {
    let mut server = Subject::server();
    server.connection.finish_drain();
    assert_eq!(server.written(), [], "there is no drain to finish");
    server.tunnel(1);
    server.connection.drain();
    let announced = server.written();
    server.connection.finish_drain();
    assert_eq!((server.written()[0].kind, server.connection.is_draining()), (GOAWAY, true));
    assert_eq!(server.feed(&connect(3)).unwrap(), []);
    assert_eq!(server.written(), parse(&rst(3, Code::REFUSED_STREAM)));
    assert_eq!(server.feed(&frame(PING, ACK, 0, &announced[1].payload)).unwrap(), [], "too late, and no answer to another PING");
    assert_eq!(server.written(), []);
}

#[test]
fn ping_and_settings_are_answered() {
    let mut server = Subject::server();
    assert!(server.connection.is_established() && !server.connection.is_settings_acknowledged());
    server.feed(&[frame(PING, 0, 0, b"01234567"), frame(SETTINGS, ACK, 0, b"")].concat()).unwrap();
    assert!(server.connection.is_settings_acknowledged());
    assert_eq!(server.written(), parse(&frame(PING, ACK, 0, b"01234567")));
    server.connection.ping(*b"to you..");
    assert_eq!(server.feed(&frame(PING, ACK, 0, b"to you..")).unwrap(), [Seen::Pong(*b"to you..")]);
    assert_eq!(server.feed(&frame(PING, ACK, 0, b"unasked.")).unwrap(), []);
}

#[test]
fn the_header_table_ends_with_the_acknowledgement() {
    let indexed = [&[0x40, 1, b'a', 1, b'b'][..], &connect_block()].concat(); // malformed order, which is not the point
    let mut server = Subject::server();
    let referring = |id| frame(HEADERS, END_HEADERS, id, &[&connect_block()[..], &[0xbe]].concat());
    server.feed(&frame(HEADERS, END_HEADERS, 1, &indexed)).unwrap();
    let events = server.feed(&referring(3)).unwrap();
    assert!(matches!(&events[..], [Seen::Request(request)] if request.headers.get("a") == Some(b"b")));
    server.feed(&frame(SETTINGS, ACK, 0, b"")).unwrap();
    assert_eq!(server.fatal(&referring(5)), Code::COMPRESSION_ERROR);
}

#[test]
fn the_first_block_says_that_we_use_no_table() {
    let mut server = Subject::server();
    server.feed(&[connect(1), connect(3)].concat()).unwrap();
    for stream in server.streams.clone() {
        server.connection.respond(stream, 200).unwrap();
    }
    assert_eq!(server.written(), parse(&[frame(HEADERS, END_HEADERS, 1, &[0x20, 0x88]), frame(HEADERS, END_HEADERS, 3, &[0x88])].concat()));
}

#[test]
fn an_idle_connection_holds_little() {
    let mut server = Subject::server();
    let stream = server.tunnel(1);
    server.feed(&frame(DATA, 0, 1, &[0; 1000])).unwrap();
    server.connection.release(stream, 1000);
    server.connection.reset(stream, Code::CANCEL);
    server.written();
    let total = server.connection.heap_bytes() + size_of::<Connection>();
    assert!(total < 1024, "{total} bytes");
}
