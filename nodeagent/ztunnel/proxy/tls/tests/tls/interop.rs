//! Against other implementations: plain rustls in the same process, and the openssl command over loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hbone_tls::{Class, Engine, State, TlsError};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::{CipherSuite, SupportedCipherSuite};

use crate::pki::{Issued, Mesh, id, svid, uri};
use crate::wire::{Judged, judge, rustls_client, rustls_client_of, rustls_server};

const DEADLINE: Duration = Duration::from_secs(20);

fn peer(mesh: &Mesh) -> Issued {
    mesh.root.issue(svid(&uri("peer")))
}

fn accepting(mesh: &Mesh) -> Engine {
    Engine::server(&mesh.server("web")).unwrap()
}

#[test]
fn a_peer_that_does_not_speak_h2_is_refused() {
    let mesh = Mesh::new();
    let peer = peer(&mesh);
    for protocols in [vec![], vec![b"http/1.1".to_vec()], vec![b"h2c".to_vec(), b"http/1.1".to_vec()]] {
        let judged =
            judge(accepting(&mesh), Vec::new(), rustls_client(Some((&[&peer], &peer)), |config| config.alpn_protocols = protocols.clone()));
        assert_eq!(judged.result.unwrap_err().class, Class::Protocol, "client with {protocols:?}");
        assert!(judged.delivered.is_empty() && judged.peer.is_err());
        let mut out = Vec::new();
        let engine = Engine::client(&mesh.dial("web", &["peer"]), &mut out).unwrap();
        let judged = judge(engine, out, rustls_server(&[&peer], &peer, |config| config.alpn_protocols = protocols.clone()));
        assert!(judged.result.is_err() && judged.delivered.is_empty(), "server with {protocols:?}");
    }
}

#[test]
fn the_server_imposes_its_order_of_ciphers() {
    let mesh = Mesh::new();
    let peer = peer(&mesh);
    let preferring = |suites: &[SupportedCipherSuite]| {
        let provider = CryptoProvider { cipher_suites: suites.to_vec(), ..default_provider() };
        judge(accepting(&mesh), Vec::new(), rustls_client_of(provider, Some((&[&peer], &peer)), |_| {}))
    };
    let suite = |judged: &Judged| judged.connection.negotiated_cipher_suite().unwrap().suite();
    let reversed = preferring(&[TLS13_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256]);
    assert_eq!((suite(&reversed), reversed.delivered.as_slice()), (CipherSuite::TLS13_AES_128_GCM_SHA256, &b"hello"[..]));
    let only_256 = preferring(&[TLS13_AES_256_GCM_SHA384]);
    assert_eq!((suite(&only_256), only_256.delivered.as_slice()), (CipherSuite::TLS13_AES_256_GCM_SHA384, &b"hello"[..]));
    assert_eq!(preferring(&[TLS13_CHACHA20_POLY1305_SHA256]).result.unwrap_err().class, Class::Protocol);
}

#[test]
fn a_peer_may_be_limited_to_p256_and_is_asked_again_if_it_guessed_another_group() {
    let mesh = Mesh::new();
    let peer = peer(&mesh);
    for (groups, accepts) in [
        (vec![kx_group::SECP256R1], true),
        (vec![kx_group::SECP384R1, kx_group::X25519], true),
        (vec![kx_group::X25519MLKEM768, kx_group::X25519], true),
        (vec![kx_group::SECP384R1], false),
    ] {
        let provider = CryptoProvider { kx_groups: groups.clone(), ..default_provider() };
        let judged = judge(accepting(&mesh), Vec::new(), rustls_client_of(provider, Some((&[&peer], &peer)), |_| {}));
        assert_eq!(judged.result.is_ok(), accepts, "{groups:?}: {}", judged.reason());
        assert_eq!(judged.delivered.is_empty(), !accepts);
    }
}

#[test]
fn tickets_of_a_server_are_dropped_and_key_updates_are_followed() {
    let mesh = Mesh::new();
    let peer = peer(&mesh);
    let mut out = Vec::new();
    let engine = Engine::client(&mesh.dial("web", &["peer"]), &mut out).unwrap();
    let mut judged = judge(engine, out, rustls_server(&[&peer], &peer, |config| config.send_tls13_tickets = 4));
    assert_eq!((judged.result, judged.delivered.as_slice()), (Ok(State::Ready), &b"hello"[..]));

    for round in 0..3u8 {
        judged.connection.refresh_traffic_keys().unwrap();
        judged.connection.writer().write_all(&[round]).unwrap();
        let (mut bytes, mut answer, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
        while judged.connection.wants_write() {
            judged.connection.write_tls(&mut bytes).unwrap();
        }
        judged.engine.receive(&mut bytes, &mut Vec::new(), &mut answer, |plain| delivered.extend_from_slice(plain)).unwrap();
        assert_eq!(delivered, [round]);
        judged.engine.seal(&[round, 7], &mut answer).unwrap();
        let update_bytes = hbone_tls::RECORD_OVERHEAD_BYTES + 5;
        assert_eq!(answer.len(), update_bytes + hbone_tls::RECORD_OVERHEAD_BYTES + 2, "our next data comes under our next key");
        let mut bytes = &answer[..];
        while !bytes.is_empty() {
            judged.connection.read_tls(&mut bytes).unwrap();
            judged.connection.process_new_packets().unwrap();
        }
        let mut received = [0; 2];
        judged.connection.reader().read_exact(&mut received).unwrap();
        assert_eq!(received, [round, 7]);
    }
}

#[test]
fn a_flood_of_key_updates_ends_the_connection() {
    let mesh = Mesh::new();
    let peer = peer(&mesh);
    let mut judged = judge(accepting(&mesh), Vec::new(), rustls_client(Some((&[&peer], &peer)), |_| {}));
    assert_eq!(judged.result, Ok(State::Ready));
    let (mut flood, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        judged.connection.refresh_traffic_keys().unwrap();
        while judged.connection.wants_write() {
            judged.connection.write_tls(&mut flood).unwrap();
        }
    }
    let error = judged.engine.receive(&mut flood, &mut Vec::new(), &mut answers, |_| {}).unwrap_err();
    assert_eq!(error.class, Class::Protocol);
    assert!(error.reason.contains("floods"), "{error}");
    assert!(answers.len() < 100, "a flood is not answered with a flood");
}

#[test]
fn key_updates_between_data_make_us_queue_nothing() {
    let mesh = Mesh::new();
    let peer = peer(&mesh);
    let mut judged = judge(accepting(&mesh), Vec::new(), rustls_client(Some((&[&peer], &peer)), |_| {}));
    let mut answers = Vec::new();
    for _ in 0..100 {
        let mut bytes = Vec::new();
        judged.connection.refresh_traffic_keys().unwrap();
        judged.connection.writer().write_all(b"x").unwrap();
        while judged.connection.wants_write() {
            judged.connection.write_tls(&mut bytes).unwrap();
        }
        judged.engine.receive(&mut bytes, &mut Vec::new(), &mut answers, |_| {}).unwrap();
    }
    assert!(answers.is_empty(), "{} bytes wait for a peer that need not read them", answers.len());
    judged.engine.seal(b"y", &mut answers).unwrap();
    assert_eq!(answers.len(), 2 * hbone_tls::RECORD_OVERHEAD_BYTES + 5 + 1, "one answer for all of them");
}

#[test]
fn a_peer_that_refuses_us_is_told_apart() {
    let mesh = Mesh::new();
    let stranger = Mesh::new();
    let mut out = Vec::new();
    // The server's certificate is good for the client; the client's is not for the server.
    let server = mesh.root.issue(svid(&uri("b")));
    let server = hbone_tls::Credentials::from_pem(&id("b"), &server.pem, &server.key_pem).unwrap();
    let server = hbone_tls::ServerConfig::new(&server, &stranger.trust, std::sync::Arc::new(crate::pki::FixedClock)).unwrap();
    let mut client = Engine::client(&mesh.dial("a", &["b"]), &mut out).unwrap();
    let mut server = Engine::server(&server).unwrap();
    let mut to_client = Vec::new();
    server.receive(&mut out, &mut Vec::new(), &mut to_client, |_| {}).unwrap();
    let mut to_server = Vec::new();
    client.receive(&mut to_client, &mut Vec::new(), &mut to_server, |_| {}).unwrap();
    let mut to_client = Vec::new();
    assert_eq!(server.receive(&mut to_server, &mut Vec::new(), &mut to_client, |_| {}).unwrap_err().class, Class::PeerCertificate);
    assert_eq!(client.receive(&mut to_client, &mut Vec::new(), &mut Vec::new(), |_| {}).unwrap_err().class, Class::OurCertificate);
}

/// A directory with `peer.pem`, `peer.key` and `root.pem` for the openssl command; removed at the end.
struct Files(PathBuf);

impl Files {
    fn new(mesh: &Mesh, name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("hbone-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let peer = peer(mesh);
        for (file, text) in [("peer.pem", &peer.pem), ("peer.key", &peer.key_pem), ("root.pem", &mesh.root.pem)] {
            std::fs::write(directory.join(file), text).unwrap();
        }
        Self(directory)
    }

    fn openssl(&self, arguments: &[&str]) -> Process {
        let child = Command::new("openssl")
            .args(arguments)
            .args(["-cert", "peer.pem", "-key", "peer.key", "-CAfile", "root.pem"])
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the openssl command is needed: install the package openssl");
        Process(child)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Drives an engine over a socket until it has delivered `wanted` bytes, fails, or the peer is gone.
fn drive(engine: &mut Engine, stream: &mut TcpStream, mut out: Vec<u8>, say: &[u8], wanted: usize) -> (Result<State, TlsError>, Vec<u8>) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (mut delivered, mut said, mut buffer) = (Vec::new(), false, vec![0; 65536]);
    loop {
        if engine.state() == State::Ready && !said {
            engine.seal(say, &mut out).unwrap();
            said = true;
        }
        // The peer may be gone already.
        let _ = stream.write_all(&out);
        out.clear();
        if delivered.len() >= wanted {
            return (Ok(engine.state()), delivered);
        }
        let read = stream.read(&mut buffer).unwrap_or(0);
        if read == 0 {
            return (Ok(engine.state()), delivered);
        }
        let result = engine.receive(&mut buffer[..read], &mut Vec::new(), &mut out, |plain| delivered.extend_from_slice(plain));
        if result.is_err() {
            let _ = stream.write_all(&out);
            return (result, delivered);
        }
    }
}

fn openssl_client(mesh: &Mesh, name: &str, options: &[&str], wanted: usize) -> (Engine, Result<State, TlsError>, Vec<u8>) {
    let files = Files::new(mesh, name);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = files.openssl(&[&["s_client", "-connect", &address, "-quiet", "-verify", "1"], options].concat());
    client.0.stdin.as_mut().unwrap().write_all(b"from openssl\n").unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut engine = accepting(mesh);
    let (result, delivered) = drive(&mut engine, &mut stream, Vec::new(), b"", wanted);
    (engine, result, delivered)
}

#[test]
fn openssl_as_a_client_is_let_in() {
    let mesh = Mesh::new();
    let (engine, result, delivered) = openssl_client(&mesh, "in", &["-tls1_3", "-alpn", "h2"], 13);
    assert_eq!((result, delivered.as_slice()), (Ok(State::Ready), &b"from openssl\n"[..]));
    assert_eq!(engine.peer().unwrap().identity(), &id("peer"));
}

#[test]
fn openssl_with_an_old_version_without_alpn_or_with_an_early_ticket_is_refused() {
    let mesh = Mesh::new();
    for (name, options) in [("v12", &["-tls1_2", "-alpn", "h2"][..]), ("alpn", &["-tls1_3"]), ("http1", &["-tls1_3", "-alpn", "http/1.1"])]
    {
        let (_, result, delivered) = openssl_client(&mesh, name, options, 1);
        assert_eq!(result.unwrap_err().class, Class::Protocol, "{name}");
        assert!(delivered.is_empty(), "{name}");
    }
}

#[test]
fn openssl_as_a_server_is_dialled_with_its_tickets() {
    let mesh = Mesh::new();
    let files = Files::new(&mesh, "server");
    // Free a moment ago: only a port that another takes in between fails, and then it is tried again.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let accept = format!("127.0.0.1:{port}");
        let mut server =
            files.openssl(&["s_server", "-accept", &accept, "-rev", "-tls1_3", "-alpn", "h2", "-Verify", "1", "-num_tickets", "2"]);
        let stream = loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(stream) => break Some(stream),
                Err(_) if server.0.try_wait().unwrap().is_some() => break None,
                Err(_) => assert!(Instant::now() < deadline, "openssl s_server does not listen"),
            }
            std::thread::yield_now();
        };
        let Some(mut stream) = stream else { continue };
        let mut out = Vec::new();
        let mut engine = Engine::client(&mesh.dial("web", &["peer"]), &mut out).unwrap();
        let (result, delivered) = drive(&mut engine, &mut stream, out, b"abc\n", 4);
        assert_eq!((result, delivered.as_slice()), (Ok(State::Ready), &b"cba\n"[..]));
        assert_eq!(engine.peer().unwrap().identity(), &id("peer"));
        return;
    }
}
