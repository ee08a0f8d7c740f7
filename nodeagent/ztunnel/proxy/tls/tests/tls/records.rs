//! What is delivered: exactly what was sealed, however the bytes are cut, and nothing that was forged, early or late.

use hbone_tls::{Class, Engine, MAX_PLAINTEXT_BYTES, RECORD_OVERHEAD_BYTES, Stage, State};
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::LazyLock;

use crate::pki::Mesh;
use crate::wire::Pair;

static MESH: LazyLock<Mesh> = LazyLock::new(Mesh::new);

fn ready() -> Pair {
    Pair::ready(&MESH.dial("a", &["b"]), &MESH.server("b"))
}

fn some_bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

#[test]
fn data_goes_both_ways_in_full_records() {
    let mut pair = ready();
    let data = some_bytes(MAX_PLAINTEXT_BYTES * 3 + 1);
    pair.client.seal(&data, &mut pair.to_server).unwrap();
    pair.server.seal(b"and back", &mut pair.to_client).unwrap();
    assert_eq!(pair.to_server.len(), data.len() + 4 * RECORD_OVERHEAD_BYTES);
    pair.run().unwrap();
    assert_eq!((pair.at_server, &pair.at_client[..]), (data, &b"and back"[..]));
}

#[test]
fn parts_share_records() {
    let mut pair = ready();
    let payload = some_bytes(MAX_PLAINTEXT_BYTES);
    pair.client.seal_parts(&[b"nine byte", &[], &payload, b"tail"], &mut pair.to_server).unwrap();
    assert_eq!(pair.to_server.len(), 9 + payload.len() + 4 + 2 * RECORD_OVERHEAD_BYTES);
    pair.run().unwrap();
    assert_eq!(pair.at_server, [b"nine byte", &payload[..], b"tail"].concat());
    let mut nothing = Vec::new();
    pair.client.seal_parts(&[&[], &[]], &mut nothing).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn a_record_can_be_filled_in_place() {
    let mut pair = ready();
    let start = pair.client.start_record(&mut pair.to_server).unwrap();
    pair.to_server.extend_from_slice(b"in place");
    pair.client.finish_record(&mut pair.to_server, start).unwrap();
    let sealed = pair.to_server.len();
    let start = pair.client.start_record(&mut pair.to_server).unwrap();
    pair.client.finish_record(&mut pair.to_server, start).unwrap();
    assert_eq!(pair.to_server.len(), sealed, "an empty record is not sent");
    pair.run().unwrap();
    assert_eq!(pair.at_server, b"in place");
}

#[test]
fn a_record_that_is_too_full_is_our_error() {
    let mut pair = ready();
    let mut out = b"ahead".to_vec();
    let start = pair.client.start_record(&mut out).unwrap();
    out.resize(start + 5 + MAX_PLAINTEXT_BYTES + 1, 0);
    assert_eq!(pair.client.finish_record(&mut out, start).unwrap_err().class, Class::Internal);
    assert_eq!(out, b"ahead", "what was not sealed is not sent");
}

#[test]
fn nothing_is_sealed_before_the_handshake_is_complete() {
    let mut out = Vec::new();
    let mut client = Engine::client(&MESH.dial("a", &["b"]), &mut out).unwrap();
    let hello = out.clone();
    assert_eq!(client.seal(b"early", &mut out).unwrap_err().class, Class::Internal);
    client.close(&mut out).unwrap();
    assert_eq!(out, hello);
}

#[test]
fn only_what_is_incomplete_is_held() {
    let mut pair = ready();
    assert_eq!((pair.client.buffered_bytes(), pair.server.buffered_bytes()), (0, 0));
    let mut out = Vec::new();
    pair.client.seal(&some_bytes(20_000), &mut out).unwrap();
    let (most, last) = out.split_at_mut(20_000);
    let mut delivered = 0;
    pair.server.receive(most, &mut Vec::new(), &mut Vec::new(), |plain| delivered += plain.len()).unwrap();
    assert_eq!(delivered, MAX_PLAINTEXT_BYTES);
    assert!((1..=20_000 - MAX_PLAINTEXT_BYTES + 64).contains(&pair.server.buffered_bytes()));
    pair.server.receive(last, &mut Vec::new(), &mut Vec::new(), |plain| delivered += plain.len()).unwrap();
    assert_eq!((delivered, pair.server.buffered_bytes()), (20_000, 0));
}

#[test]
fn each_side_closes_on_its_own() {
    let mut pair = ready();
    pair.client.seal(b"last words", &mut pair.to_server).unwrap();
    pair.client.close(&mut pair.to_server).unwrap();
    pair.client.close(&mut pair.to_server).unwrap();
    let closing = pair.to_server.len();
    assert_eq!(closing, 10 + 2 + 2 * RECORD_OVERHEAD_BYTES);
    pair.run().unwrap();
    assert_eq!((pair.server.state(), pair.client.state()), (State::PeerClosed, State::Ready));
    assert!(pair.client.seal(b"more", &mut pair.to_server).is_err());
    pair.server.seal(b"answer", &mut pair.to_client).unwrap();
    pair.server.close(&mut pair.to_client).unwrap();
    pair.run().unwrap();
    assert_eq!((pair.at_server, pair.at_client), (b"last words".to_vec(), b"answer".to_vec()));
    assert_eq!(pair.client.state(), State::PeerClosed);
}

#[test]
fn what_follows_a_close_is_ignored() {
    let mut pair = ready();
    pair.client.close(&mut pair.to_server).unwrap();
    pair.to_server.extend_from_slice(b"garbage that is no record at all");
    pair.run().unwrap();
    pair.to_server.extend_from_slice(b"and more");
    pair.run().unwrap();
    assert!(pair.at_server.is_empty());
}

#[test]
fn a_replayed_or_dropped_record_ends_the_connection() {
    for replay in [true, false] {
        let mut pair = ready();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        pair.client.seal(b"one", &mut one).unwrap();
        pair.client.seal(b"two", &mut two).unwrap();
        pair.to_server = if replay { [one.clone(), one].concat() } else { two };
        let error = pair.run().unwrap_err();
        assert_eq!((error.stage, error.class), (Stage::Records, Class::Protocol));
        assert_eq!(pair.at_server, if replay { &b"one"[..] } else { b"" });
        // The other side was told, and the end is final.
        let mut alert = std::mem::take(&mut pair.to_client);
        assert!(alert.is_empty(), "the pair carries what was said");
        assert_eq!(pair.server.receive(&mut alert, &mut Vec::new(), &mut Vec::new(), |_| {}).unwrap_err(), error);
        assert!(pair.server.seal(b"more", &mut Vec::new()).is_err());
    }
}

#[test]
fn a_refusal_is_told_to_the_peer() {
    let mut pair = ready();
    let mut out = Vec::new();
    let mut forged = [23, 3, 3, 0, 30].to_vec();
    forged.resize(35, 1);
    pair.server.receive(&mut forged, &mut Vec::new(), &mut out, |_| {}).unwrap_err();
    let error = pair.client.receive(&mut out, &mut Vec::new(), &mut Vec::new(), |_| {}).unwrap_err();
    assert!(error.reason.contains("BadRecordMac"), "{error}");
    assert_eq!(error.class, Class::PeerAlert);
}

#[test]
fn plain_records_after_the_handshake_are_refused_before_they_are_whole() {
    let headers: [&[u8]; 6] =
        [&[20, 3, 3, 0, 1], &[21, 3, 3, 0, 2], &[22, 3, 3, 64, 0], &[23, 3, 1, 0, 9], &[23, 3, 3, 0x41, 1], b"GET / HTTP/1.1"];
    for header in headers {
        let mut pair = ready();
        pair.to_server.extend_from_slice(header);
        assert_eq!(pair.run().unwrap_err().class, Class::Protocol, "{header:?}");
    }
}

#[test]
fn plaintext_ahead_of_or_inside_a_handshake_is_refused_and_not_delivered() {
    let mut hello = Vec::new();
    let _client = Engine::client(&MESH.dial("a", &["b"]), &mut hello).unwrap();
    let plain_record = [&[23, 3, 3, 0, 5][..], b"early"].concat();
    let inputs = [b"GET / HTTP/1.1\r\nHost: b\r\n\r\n".to_vec(), plain_record.clone(), [hello, plain_record].concat()];
    for mut input in inputs {
        let mut server = Engine::server(&MESH.server("b")).unwrap();
        let error = server.receive(&mut input, &mut Vec::new(), &mut Vec::new(), |plain| panic!("delivered {plain:?}")).unwrap_err();
        assert_eq!((error.stage, error.class), (Stage::Handshake, Class::Protocol), "{error}");
    }
}

#[test]
fn a_handshake_without_end_is_cut_off() {
    let mut server = Engine::server(&MESH.server("b")).unwrap();
    // A client hello of 65,000 bytes, in records of one byte.
    let mut message = vec![1, 0, 0xfd, 0xe8, 3, 3];
    message.resize(65_004, 0);
    let mut input: Vec<u8> = message.iter().flat_map(|&byte| [22, 3, 1, 0, 1, byte]).collect();
    let error = server.receive(&mut input, &mut Vec::new(), &mut Vec::new(), |_| {}).unwrap_err();
    assert_eq!(error.class, Class::Protocol);
    assert!(error.reason.contains("too long"), "{error}");
}

#[test]
fn a_server_sends_no_ticket() {
    let mut pair = Pair::new(&MESH.dial("a", &["b"]), &MESH.server("b"));
    pair.server.receive(&mut std::mem::take(&mut pair.to_server), &mut Vec::new(), &mut pair.to_client, |_| {}).unwrap();
    pair.client.receive(&mut std::mem::take(&mut pair.to_client), &mut Vec::new(), &mut pair.to_server, |_| {}).unwrap();
    assert_eq!(pair.client.state(), State::Ready);
    let state = pair.server.receive(&mut std::mem::take(&mut pair.to_server), &mut Vec::new(), &mut pair.to_client, |_| {}).unwrap();
    assert_eq!(state, State::Ready);
    assert!(pair.to_client.is_empty(), "the server said something after the client's last flight");
}

#[test]
fn a_client_names_no_host_and_offers_no_early_data_ticket_or_old_version() {
    let mut hello = Vec::new();
    let _client = Engine::client(&MESH.dial("a", &["b"]), &mut hello).unwrap();
    let extensions = extensions_of(&hello);
    let kinds: Vec<u16> = extensions.iter().map(|(kind, _)| *kind).collect();
    for (kind, name) in
        [(0, "server_name"), (35, "session_ticket"), (41, "pre_shared_key"), (42, "early_data"), (65281, "renegotiation_info")]
    {
        assert!(!kinds.contains(&kind), "{name}");
    }
    let only = |wanted: u16| extensions.iter().find(|(kind, _)| *kind == wanted).map(|(_, body)| body.clone());
    assert_eq!(only(43), Some(vec![2, 3, 4]), "versions");
    assert_eq!(only(16), Some([&[0, 3, 2][..], b"h2"].concat()), "ALPN");
}

/// The extensions of a client hello that is one record.
fn extensions_of(record: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let number = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    // Behind the headers of record and message, the version and 32 random bytes: session id, suites, compression methods.
    let mut rest = &record[5 + 4 + 2 + 32..];
    rest = &rest[1 + usize::from(rest[0])..];
    rest = &rest[2 + number(rest)..];
    rest = &rest[1 + usize::from(rest[0])..];
    rest = &rest[2..];
    let mut extensions = Vec::new();
    while !rest.is_empty() {
        let len = number(&rest[2..]);
        extensions.push((number(rest) as u16, rest[4..4 + len].to_vec()));
        rest = &rest[4 + len..];
    }
    extensions
}

/// Feeds `bytes` in pieces of the given sizes, over and over.
fn feed(engine: &mut Engine, bytes: &[u8], sizes: &[usize], out: &mut Vec<u8>, at: &mut Vec<u8>) {
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let (piece, later) = rest.split_at((*size).min(rest.len()));
        engine.receive(&mut piece.to_vec(), &mut Vec::new(), out, |plain| at.extend_from_slice(plain)).unwrap();
        rest = later;
        if rest.is_empty() {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_the_bytes_are_cut(sizes in vec(1usize..5000, 1..12), lens in vec(0usize..40_000, 1..6)) {
        let mut pair = Pair::new(&MESH.dial("a", &["b"]), &MESH.server("b"));
        while !(pair.to_server.is_empty() && pair.to_client.is_empty()) {
            let bytes = std::mem::take(&mut pair.to_server);
            feed(&mut pair.server, &bytes, &sizes, &mut pair.to_client, &mut pair.at_server);
            let bytes = std::mem::take(&mut pair.to_client);
            feed(&mut pair.client, &bytes, &sizes, &mut pair.to_server, &mut pair.at_client);
        }
        prop_assert_eq!((pair.client.state(), pair.server.state()), (State::Ready, State::Ready));
        let mut sent = Vec::new();
        for len in lens {
            let data = some_bytes(len);
            pair.client.seal(&data, &mut pair.to_server).unwrap();
            sent.extend_from_slice(&data);
        }
        let bytes = std::mem::take(&mut pair.to_server);
        feed(&mut pair.server, &bytes, &sizes, &mut pair.to_client, &mut pair.at_server);
        prop_assert_eq!(pair.at_server, sent);
    }

    #[test]
    fn garbage_never_delivers(garbage in vec(any::<u8>(), 1..600), prefix in 0usize..6, open in any::<bool>()) {
        let mut pair = if open { ready() } else { Pair::new(&MESH.dial("a", &["b"]), &MESH.server("b")) };
        // Garbage that begins as a record does goes deeper.
        let mut input = [22, 3, 3, 0, 200, 1][..prefix].to_vec();
        if open && prefix > 0 {
            input[0] = 23;
        }
        input.extend_from_slice(&garbage);
        for engine in [&mut pair.server, &mut pair.client] {
            let state = engine.receive(&mut input.clone(), &mut Vec::new(), &mut Vec::new(), |plain| panic!("delivered {plain:?}"));
            prop_assert!(open || state != Ok(State::Ready));
        }
    }

    #[test]
    fn a_flipped_bit_delivers_only_what_was_ahead_of_it(position in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut pair = ready();
        let data = some_bytes(3000);
        for chunk in data.chunks(1000) {
            pair.client.seal(chunk, &mut pair.to_server).unwrap();
        }
        let index = position.index(pair.to_server.len());
        pair.to_server[index] ^= 1 << bit;
        let record = index / (1000 + RECORD_OVERHEAD_BYTES);
        // A longer length waits for more, anything else is refused.
        let _ = pair.run();
        prop_assert_eq!(&pair.at_server, &data[..record * 1000]);
    }

    #[test]
    fn a_flipped_bit_in_the_handshake_is_never_accepted(position in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut pair = Pair::new(&MESH.dial("a", &["b"]), &MESH.server("b"));
        pair.server.receive(&mut std::mem::take(&mut pair.to_server), &mut Vec::new(), &mut pair.to_client, |_| {}).unwrap();
        let index = position.index(pair.to_client.len());
        // Outside, a record's type and version are only labels: rustls does not look at them once records are sealed.
        let label = is_record_label(&pair.to_client, index);
        pair.to_client[index] ^= 1 << bit;
        let result = pair.run();
        prop_assert!(label || result.is_err() || pair.client.state() == State::Handshaking);
    }
}

fn is_record_label(bytes: &[u8], index: usize) -> bool {
    let mut start = 0;
    while start < bytes.len() {
        if (start..start + 3).contains(&index) {
            return true;
        }
        start += 5 + usize::from(u16::from_be_bytes([bytes[start + 3], bytes[start + 4]]));
    }
    false
}
