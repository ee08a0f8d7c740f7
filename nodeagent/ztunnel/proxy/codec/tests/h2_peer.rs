//! An independent implementation (the `h2` crate) on the other side of the wire, in both roles.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use hbone_codec::{Code, Config, Connection, Event, HeaderBlock, Headers, Role, StreamId};
use http::{HeaderValue, Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const ECHO: &str = "10.0.0.1:80";
const REFUSE: &str = "10.0.0.2:80";
const RESET: &str = "10.0.0.3:80";
const DEADLINE: Duration = Duration::from_secs(60);

fn connection(role: Role) -> Connection {
    Connection::new(role, Config::default().check().unwrap(), Instant::now())
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|position| ((position * 31) ^ (position >> 9)) as u8).collect()
}

/// What a stream of ours has to send, and how it came along.
#[derive(Default)]
struct Tunnel {
    unsent: Vec<u8>,
    end: bool,
    got: Vec<u8>,
    has_ended: bool,
    reset: Option<Code>,
    status: u16,
}

/// Our side of a wire: moves bytes between a socket and a connection until the peer hangs up or `is_done`.
struct Ours {
    connection: Connection,
    tunnels: HashMap<StreamId, Tunnel>,
    is_echo: bool,
    /// Drain as soon as a request has come.
    is_leaving: bool,
    headers: Vec<Headers>,
}

impl Ours {
    fn new(role: Role) -> Self {
        Self {
            connection: connection(role),
            tunnels: HashMap::new(),
            is_echo: role == Role::Server,
            is_leaving: false,
            headers: Vec::new(),
        }
    }

    fn open(&mut self, authority: &str, payload: Vec<u8>) -> StreamId {
        let block = HeaderBlock::connect(authority).unwrap().field("baggage", "k8s.pod.name=x").unwrap();
        let stream = self.connection.open(&block, &[("forwarded", "for=\"10.0.0.9:4711\"")]).unwrap();
        self.tunnels.insert(stream, Tunnel { unsent: payload, end: true, ..Tunnel::default() });
        stream
    }

    async fn run(&mut self, io: DuplexStream, is_done: impl Fn(&Self) -> bool) {
        let (mut reader, mut writer) = tokio::io::split(io);
        let (mut input, mut out) = (vec![0; 100_000], Vec::new());
        loop {
            self.connection.take_control(&mut out);
            if out.len() < 256 << 10 {
                self.send(&mut out);
            }
            if out.is_empty() && is_done(self) {
                return;
            }
            tokio::select! {
                length = reader.read(&mut input) => match length.unwrap() {
                    0 => return,
                    length => self.receive(&input[..length]),
                },
                length = writer.write(&out), if !out.is_empty() => drop(out.drain(..length.unwrap())),
            }
        }
    }

    fn send(&mut self, out: &mut Vec<u8>) {
        for (&stream, tunnel) in &mut self.tunnels {
            if tunnel.unsent.is_empty() && !tunnel.end {
                continue;
            }
            if let Ok(taken) = self.connection.send_data(stream, &tunnel.unsent, tunnel.end, out) {
                tunnel.unsent.drain(..taken);
                tunnel.end &= !tunnel.unsent.is_empty();
            }
        }
    }

    fn receive(&mut self, mut input: &[u8]) {
        while let Some(event) = self.connection.receive(&mut input, Instant::now()).unwrap() {
            match event {
                Event::Request(request) => {
                    assert_eq!(request.malformed, None);
                    let status = if request.authority == REFUSE { 401 } else { 200 };
                    self.connection.respond(request.stream, status).unwrap();
                    if request.authority == RESET {
                        self.connection.reset(request.stream, Code::CONNECT_ERROR);
                    }
                    if self.is_leaving {
                        self.connection.drain();
                    }
                    self.headers.push(request.headers);
                    self.tunnels.insert(request.stream, Tunnel::default());
                }
                Event::Data { stream, payload } => {
                    let tunnel = self.tunnels.get_mut(&stream).unwrap();
                    let kept = if self.is_echo { &mut tunnel.unsent } else { &mut tunnel.got };
                    kept.extend_from_slice(payload);
                    self.connection.release(stream, payload.len());
                }
                Event::End { stream } => {
                    let tunnel = self.tunnels.get_mut(&stream).unwrap();
                    tunnel.has_ended = true;
                    tunnel.end |= self.is_echo;
                }
                Event::Response { stream, status } => self.tunnels.get_mut(&stream).unwrap().status = status,
                Event::Reset { stream, code, .. } => self.tunnels.get_mut(&stream).unwrap().reset = Some(code),
                Event::Writable { .. } | Event::SettingsReceived(_) | Event::GoAway { .. } | Event::Pong { .. } => {}
            }
        }
    }
}

fn request(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap()
}

/// Send all of `payload` as h2's windows allow, then end.
async fn upload(mut stream: h2::SendStream<Bytes>, payload: Vec<u8>) {
    let mut payload = Bytes::from(payload);
    while !payload.is_empty() {
        stream.reserve_capacity(payload.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
        stream.send_data(payload.split_to(room.min(payload.len())), false).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
}

async fn download(mut stream: h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut got = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        got.extend_from_slice(&chunk);
    }
    Ok(got)
}

/// An h2 client whose connection runs in a task of its own.
async fn h2_client(io: DuplexStream, builder: &h2::client::Builder) -> h2::client::SendRequest<Bytes> {
    let (sender, driver) = builder.handshake(io).await.unwrap();
    tokio::spawn(async move { driver.await.unwrap() });
    sender
}

async fn within_deadline<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("the deadline passed")
}

#[tokio::test]
async fn an_h2_client_tunnels_through_us() {
    for builder in [
        h2::client::Builder::new(),
        h2::client::Builder::new().initial_window_size(4 << 20).initial_connection_window_size(16 << 20).max_frame_size(1 << 20).to_owned(),
    ] {
        let (ours, theirs) = duplex(300_000);
        let mut server = Ours::new(Role::Server);
        let work = async {
            let sender = h2_client(theirs, &builder).await;
            let transfers = (0..8).map(|number| {
                let mut sender = sender.clone();
                tokio::spawn(async move {
                    std::future::poll_fn(|context| sender.poll_ready(context)).await.unwrap();
                    let (response, stream) = sender.send_request(request(ECHO), false).unwrap();
                    let response = response.await.unwrap();
                    assert_eq!(response.status(), 200);
                    let payload = bytes(number * 700_000 + number);
                    let ((), got) = tokio::join!(upload(stream, payload.clone()), download(response.into_body()));
                    assert!(got.unwrap() == payload, "the echo differs");
                })
            });
            for transfer in transfers.collect::<Vec<_>>() {
                transfer.await.unwrap();
            }
        };
        within_deadline(async { tokio::join!(server.run(ours, |_| false), work) }).await;
        assert!(server.connection.is_settings_acknowledged());
        assert_eq!(server.connection.open_streams(), 0);
    }
}

#[tokio::test]
async fn headers_arrive_whatever_their_bytes_and_their_indexing() {
    let (ours, theirs) = duplex(10_000);
    let mut server = Ours::new(Role::Server);
    let every_byte: Vec<u8> = (0x21..=0x7e).chain(0x80..=0xff).collect();
    let work = async {
        let mut sender = h2_client(theirs, &h2::client::Builder::new()).await;
        for round in 0..20 {
            let mut request = request(ECHO);
            request.headers_mut().insert("baggage", HeaderValue::from_static("k8s.namespace.name=demo"));
            request.headers_mut().insert("x-every-byte", HeaderValue::from_bytes(&every_byte).unwrap());
            request.headers_mut().insert("x-round", HeaderValue::from_str(&round.to_string()).unwrap());
            std::future::poll_fn(|context| sender.poll_ready(context)).await.unwrap();
            let (response, mut stream) = sender.send_request(request, false).unwrap();
            stream.send_data(Bytes::new(), true).unwrap();
            assert_eq!(download(response.await.unwrap().into_body()).await.unwrap(), b"");
        }
    };
    within_deadline(async { tokio::join!(server.run(ours, |_| false), work) }).await;
    assert_eq!(server.headers.len(), 20);
    for (round, headers) in server.headers.iter().enumerate() {
        assert_eq!(headers.get("baggage"), Some(&b"k8s.namespace.name=demo"[..]));
        assert_eq!(headers.get("x-every-byte"), Some(&every_byte[..]));
        assert_eq!(headers.get("x-round"), Some(round.to_string().as_bytes()));
    }
}

#[tokio::test]
async fn an_h2_client_sees_refusals_and_resets() {
    let (ours, theirs) = duplex(10_000);
    let mut server = Ours::new(Role::Server);
    let work = async {
        let mut sender = h2_client(theirs, &h2::client::Builder::new()).await;
        let (response, _stream) = sender.send_request(request(REFUSE), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 401, "told although the stream is reset behind it");
        std::future::poll_fn(|context| sender.poll_ready(context)).await.unwrap();
        let (response, _stream) = sender.send_request(request(RESET), false).unwrap();
        let error = download(response.await.unwrap().into_body()).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CONNECT_ERROR));
        // One that h2 gives up: it resets with CANCEL.
        std::future::poll_fn(|context| sender.poll_ready(context)).await.unwrap();
        let (response, stream) = sender.send_request(request(ECHO), false).unwrap();
        drop((response.await.unwrap(), stream));
    };
    within_deadline(async { tokio::join!(server.run(ours, |_| false), work) }).await;
    let reset: Vec<Code> = server.tunnels.values().filter_map(|tunnel| tunnel.reset).collect();
    assert_eq!(reset, [Code::CANCEL]);
}

#[tokio::test]
async fn an_h2_client_is_drained_without_loss() {
    let (ours, theirs) = duplex(10_000);
    let mut server = Ours::new(Role::Server);
    server.is_leaving = true;
    let work = async {
        let (mut sender, driver) = h2::client::handshake(theirs).await.unwrap();
        let driver = tokio::spawn(driver);
        let (response, stream) = sender.send_request(request(ECHO), false).unwrap();
        let response = response.await.unwrap();
        let ((), got) = tokio::join!(upload(stream, bytes(500_000)), download(response.into_body()));
        assert!(got.unwrap() == bytes(500_000), "the echo differs");
        let refused = std::future::poll_fn(|context| sender.poll_ready(context)).await;
        assert!(refused.is_err(), "a new stream after GOAWAY");
        driver.await.unwrap().unwrap();
    };
    within_deadline(async { tokio::join!(server.run(ours, |ours| ours.connection.is_closed()), work) }).await;
    assert!(server.connection.is_closed());
}

/// An h2 server: echoes, refuses or resets, by authority.
async fn h2_server(io: DuplexStream, builder: h2::server::Builder) {
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    while let Some(accepted) = connection.accept().await {
        let Ok((request, mut respond)) = accepted else { return };
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.headers()["baggage"], "k8s.pod.name=x");
        assert_eq!(request.headers()["forwarded"], "for=\"10.0.0.9:4711\"");
        assert!(request.uri().scheme().is_none() && request.uri().path().is_empty());
        let authority = request.uri().authority().unwrap().to_string();
        match authority.as_str() {
            REFUSE => drop(respond.send_response(Response::builder().status(503).body(()).unwrap(), true).unwrap()),
            RESET => respond.send_reset(Reason::REFUSED_STREAM),
            _ => {
                let stream = respond.send_response(Response::new(()), false).unwrap();
                tokio::spawn(async move {
                    let got = download(request.into_body()).await.unwrap();
                    upload(stream, got).await;
                });
            }
        }
    }
}

#[tokio::test]
async fn we_tunnel_through_an_h2_server() {
    let mut small = h2::server::Builder::new();
    small.initial_window_size(70_000).initial_connection_window_size(200_000).max_frame_size(16_384);
    let mut large = h2::server::Builder::new();
    large.initial_window_size(4 << 20).initial_connection_window_size(16 << 20).max_frame_size(1 << 20);
    for builder in [small, large] {
        let (ours, theirs) = duplex(300_000);
        let mut client = Ours::new(Role::Client);
        let streams: Vec<(StreamId, usize)> =
            (0..8).map(|number| number * 600_000 + number).map(|length| (client.open(ECHO, bytes(length)), length)).collect();
        let is_done = |ours: &Ours| ours.tunnels.values().all(|tunnel| tunnel.has_ended);
        within_deadline(async {
            tokio::select! {
                () = client.run(ours, is_done) => {}
                () = h2_server(theirs, builder) => panic!("h2 hung up"),
            }
        })
        .await;
        for (stream, length) in streams {
            let tunnel = &client.tunnels[&stream];
            assert_eq!((tunnel.status, tunnel.reset), (200, None));
            assert!(tunnel.got == bytes(length), "the echo differs");
        }
        assert_eq!(client.connection.open_streams(), 0);
    }
}

#[tokio::test]
async fn an_h2_server_refuses_and_resets() {
    let (ours, theirs) = duplex(10_000);
    let mut client = Ours::new(Role::Client);
    let (refused, reset) = (client.open(REFUSE, Vec::new()), client.open(RESET, Vec::new()));
    let is_done = |ours: &Ours| ours.tunnels.values().all(|tunnel| tunnel.has_ended || tunnel.reset.is_some());
    within_deadline(async {
        tokio::select! {
            () = client.run(ours, is_done) => {}
            () = h2_server(theirs, h2::server::Builder::new()) => panic!("h2 hung up"),
        }
    })
    .await;
    assert_eq!(client.tunnels[&refused].status, 503);
    assert_eq!(client.tunnels[&reset].reset, Some(Code::REFUSED_STREAM));
}
