//! How fast DATA is framed and taken apart on one core, without TLS and sockets. Run it with `--release`.

use std::time::{Duration, Instant};

use hbone_codec::{Config, Connection, Event, HeaderBlock, Role, StreamId};

/// What one turn of the proxy hands over.
const BATCH_BYTES: usize = 256 << 10;
const TIME: Duration = Duration::from_secs(1);

struct Pair {
    client: Connection,
    server: Connection,
    stream: StreamId,
    wire: Vec<u8>,
    now: Instant,
}

impl Pair {
    fn new(max_frame_bytes: u32) -> Result<Self, Box<dyn std::error::Error>> {
        let now = Instant::now();
        let config = Config { max_frame_bytes, ..Config::default() }.check()?;
        let mut client = Connection::new(Role::Client, config, now);
        let stream = client.open(&HeaderBlock::connect("10.0.0.1:80")?, &[])?;
        let mut pair = Self { client, server: Connection::new(Role::Server, config, now), stream, wire: Vec::new(), now };
        pair.turn()?;
        pair.server.respond(stream, 200)?;
        pair.turn()?;
        Ok(pair)
    }

    /// Carry what waits from the client to the server and back.
    fn turn(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        self.client.take_control(&mut self.wire);
        let mut input = &self.wire[..];
        while let Some(event) = self.server.receive(&mut input, self.now)? {
            if let Event::Data { stream, payload } = event {
                self.server.release(stream, std::hint::black_box(payload).len());
            }
        }
        self.wire.clear();
        self.server.take_control(&mut self.wire);
        let mut input = &self.wire[..];
        while self.client.receive(&mut input, self.now)?.is_some() {}
        self.wire.clear();
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, max_frame_bytes, payload_bytes) in
        [("16 KiB frames", 16_384, BATCH_BYTES), ("1 MiB frames", 1 << 20, BATCH_BYTES), ("messages of 64 bytes", 1 << 20, 64)]
    {
        let mut pair = Pair::new(max_frame_bytes)?;
        let payload = vec![7; payload_bytes];
        let (start, mut batches) = (Instant::now(), 0u32);
        let (mut framing, mut taking) = (Duration::ZERO, Duration::ZERO);
        while start.elapsed() < TIME {
            let begin = Instant::now();
            for _ in 0..BATCH_BYTES / payload_bytes {
                pair.client.send_data(pair.stream, &payload, false, &mut pair.wire)?;
            }
            let framed = Instant::now();
            pair.turn()?;
            (framing, taking) = (framing + (framed - begin), taking + framed.elapsed());
            batches += 1;
        }
        let gigabytes = f64::from(batches) * f64::from(BATCH_BYTES as u32) / 1e9;
        let (send, receive) = (gigabytes / framing.as_secs_f64(), gigabytes / taking.as_secs_f64());
        println!("{name}: framed {send:.1} GB/s (one copy), taken apart {receive:.1} GB/s (none)");
    }
    Ok(())
}
