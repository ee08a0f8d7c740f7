//! Prints handshakes per second, and how fast records are sealed and opened, beside what rustls' own record layer does.
//!
//! `cargo run --release -p hbone-tls --example throughput`

#[path = "../tests/tls/pki.rs"]
#[allow(dead_code)]
mod pki;

use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData};

use hbone_tls::{Dial, Engine, MAX_PLAINTEXT_BYTES, ServerConfig};

const BATCH_BYTES: usize = 8 * MAX_PLAINTEXT_BYTES;
const RUNS: usize = 5;

fn handshake(dial: &Dial, config: &ServerConfig) -> (Engine, Engine) {
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut client = Engine::client(dial, &mut to_server).unwrap();
    let mut server = Engine::server(config).unwrap();
    server.receive(&mut to_server, &mut Vec::new(), &mut to_client, |_| {}).unwrap();
    to_server.clear();
    client.receive(&mut to_client, &mut Vec::new(), &mut to_server, |_| {}).unwrap();
    server.receive(&mut to_server, &mut Vec::new(), &mut Vec::new(), |_| {}).unwrap();
    assert!(client.peer().is_some() && server.peer().is_some());
    (client, server)
}

/// The median over several runs of how often `turn` ran in a second of the time that it says it took.
fn per_second(mut turn: impl FnMut() -> Duration) -> f64 {
    let mut rates: Vec<f64> = (0..RUNS)
        .map(|_| {
            let (mut spent, mut turns) = (Duration::ZERO, 0);
            while spent < Duration::from_millis(400) {
                spent += turn();
                turns += 1;
            }
            f64::from(turns) / spent.as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[RUNS / 2]
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn print_rate(what: &str, batches_per_s: f64) {
    println!("{what}: {:.2} GB/s", batches_per_s * BATCH_BYTES as f64 / 1e9);
}

fn engines(mesh: &pki::Mesh) {
    let (dial, config) = (mesh.dial("a", &["b"]), mesh.server("b"));
    let handshakes = per_second(|| timed(|| drop(black_box(handshake(&dial, &config)))));
    println!("mutual handshakes, both sides on one core: {handshakes:.0}/s");

    let (mut client, mut server) = handshake(&dial, &config);
    let (plain, mut sealed) = (vec![7; BATCH_BYTES], Vec::new());
    let mut seal_then_open = |opening: bool| {
        sealed.clear();
        let sealing = timed(|| client.seal(&plain, &mut sealed).unwrap());
        let open = timed(|| {
            server
                .receive(&mut sealed, &mut Vec::new(), &mut Vec::new(), |plain| {
                    black_box(plain);
                })
                .unwrap();
        });
        if opening { open } else { sealing }
    };
    print_rate("sealing", per_second(|| seal_then_open(false)));
    print_rate("opening", per_second(|| seal_then_open(true)));
}

/// Two ends of plain rustls that know each other, ahead of their handshake.
fn rustls_pair(mesh: &pki::Mesh) -> (ClientConnection, ServerConnection) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(mesh.root.der.clone()).unwrap();
    let mut params = pki::svid("spiffe://cluster.local/ns/default/sa/b");
    params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
    let leaf = mesh.root.issue(params);
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let provider = Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() });
    let server = rustls::ServerConfig::builder_with_details(provider.clone(), Arc::new(pki::FixedClock))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der], key)
        .unwrap();
    let client = rustls::ClientConfig::builder_with_details(provider, Arc::new(pki::FixedClock))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
    client.set_buffer_limit(None);
    (client, ServerConnection::new(Arc::new(server)).unwrap())
}

fn sent<D>(from: &mut ConnectionCommon<D>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn receive<D: SideData>(to: &mut ConnectionCommon<D>, mut bytes: &[u8], into: &mut [u8]) {
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).unwrap();
        to.process_new_packets().unwrap();
        while matches!(to.reader().read(into), Ok(1..)) {}
    }
}

fn plain_rustls(mesh: &pki::Mesh) {
    let (mut client, mut server) = rustls_pair(mesh);
    let mut into = vec![0; BATCH_BYTES];
    while client.is_handshaking() || server.is_handshaking() {
        receive(&mut *server, &sent(&mut client), &mut into);
        receive(&mut *client, &sent(&mut server), &mut into);
    }
    let plain = vec![7; BATCH_BYTES];
    let mut seal_then_open = |opening: bool| {
        let mut sealed = Vec::new();
        let sealing = timed(|| {
            client.writer().write_all(&plain).unwrap();
            sealed = sent(&mut client);
        });
        let open = timed(|| receive(&mut *server, &sealed, &mut into));
        if opening { open } else { sealing }
    };
    print_rate("sealing by rustls", per_second(|| seal_then_open(false)));
    print_rate("opening by rustls", per_second(|| seal_then_open(true)));
}

fn main() {
    let mesh = pki::Mesh::new();
    engines(&mesh);
    plain_rustls(&mesh);
}
