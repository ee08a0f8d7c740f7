//! What a connection costs while it is idle: memory is a budget, and this is its test. A binary of its own, so that nothing else allocates.

#[path = "../tls/pki.rs"]
#[allow(dead_code)]
mod pki;

use hbone_tls::{Engine, State};

const PAIRS: usize = 1000;
/// 10,000 idle tunnels are to fit in a few tens of MB together with their HTTP/2 state.
const BUDGET_BYTES: usize = 6 << 10;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn ready(dial: &hbone_tls::Dial, config: &hbone_tls::ServerConfig) -> (Engine, Engine) {
    let mut to_server = Vec::new();
    let mut client = Engine::client(dial, &mut to_server).unwrap();
    let mut server = Engine::server(config).unwrap();
    let mut delivered = 0;
    for _ in 0..2 {
        let mut to_client = Vec::new();
        server.receive(&mut to_server, &mut Vec::new(), &mut to_client, |plain| delivered += plain.len()).unwrap();
        to_server.clear();
        client.receive(&mut to_client, &mut Vec::new(), &mut to_server, |_| {}).unwrap();
    }
    client.seal(&[0; 50_000], &mut to_server).unwrap();
    server.receive(&mut to_server, &mut Vec::new(), &mut Vec::new(), |plain| delivered += plain.len()).unwrap();
    assert_eq!((delivered, client.state(), server.state()), (50_000, State::Ready, State::Ready));
    (client, server)
}

#[test]
fn an_idle_connection_costs_a_few_kilobytes() {
    let mesh = pki::Mesh::new();
    let (dial, config) = (mesh.dial("a", &["b"]), mesh.server("b"));
    // What is made once, and the allocator's own.
    let warm: Vec<_> = (0..20).map(|_| ready(&dial, &config)).collect();
    let before = resident_bytes();
    let idle: Vec<_> = (0..PAIRS).map(|_| ready(&dial, &config)).collect();
    let each = (resident_bytes() - before) / (2 * PAIRS);
    println!("an idle connection costs {each} bytes");
    assert!(each < BUDGET_BYTES, "{each} bytes");
    drop((warm, idle));
}
