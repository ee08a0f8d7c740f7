//! The benchmarks' load: a server, and clients that measure bulk, round trips, new, refused and idle connections, and HTTP/1.1.
//!
//! The standard library only, so that `rustc -O` builds it; prints one JSON object per run.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const ECHO: u8 = b'e';
const ONCE: u8 = b'o';
const SINK: u8 = b's';
/// Of `GET`.
const HTTP: u8 = b'G';
const DOWNLOAD: usize = 16 << 20;
const CHUNK: usize = 256 << 10;
const ACCEPTORS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(20);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["serve", port] => serve(port),
        ["bulk", address, seconds, streams] => bulk(address, seconds, streams),
        ["rtt", address, count] => round_trips(address, count),
        ["rate", address, seconds, clients] => rate(address, seconds, clients),
        ["refused", address, seconds, clients] => refused(address, seconds, clients),
        ["idle", address, count] => idle(address, count),
        ["http-rtt", address, count] => http_round_trips(address, count),
        ["http-rate", address, seconds, clients] => http_rate(address, seconds, clients),
        ["download", address, seconds] => download(address, seconds),
        _ => Err("usage: load serve PORT | bulk ADDRESS SECONDS STREAMS | rtt ADDRESS COUNT | rate ADDRESS SECONDS CLIENTS | refused ADDRESS SECONDS CLIENTS | idle ADDRESS COUNT | http-rtt ADDRESS COUNT | http-rate ADDRESS SECONDS CLIENTS | download ADDRESS SECONDS".into()),
    };
    if let Err(error) = outcome {
        eprintln!("load: {error}");
        std::process::exit(1);
    }
}

/// A connection's first byte says what it wants: its bytes back, one of them and the end, or their count at the end.
fn serve(port: &str) -> Result<()> {
    let listener = TcpListener::bind(format!("[::]:{port}"))?;
    let acceptors: Vec<_> = (0..ACCEPTORS)
        .map(|_| {
            let listener = listener.try_clone()?;
            Ok(thread::spawn(move || accept(&listener)))
        })
        .collect::<Result<_>>()?;
    println!("listening");
    for acceptor in acceptors {
        acceptor.join().map_err(|_| "an acceptor panicked")??;
    }
    Ok(())
}

/// What is short is served here, so that a new connection is measured and not a new thread.
fn accept(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut kind = [0];
        if stream.set_nodelay(true).and_then(|()| stream.read_exact(&mut kind)).is_err() {
            continue;
        }
        if kind[0] == ONCE {
            let mut byte = [0];
            // The server ends first: the client's port is free at once, as many as it may open.
            let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
        } else {
            thread::Builder::new().stack_size(64 << 10).spawn(move || answer(kind[0], stream))?;
        }
    }
}

fn answer(kind: u8, mut stream: TcpStream) -> Result<()> {
    if kind == SINK {
        let mut buffer = vec![0; CHUNK];
        let mut total = 0_u64;
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                length => total += length as u64,
            }
        }
        return Ok(stream.write_all(&total.to_be_bytes())?);
    }
    if kind == HTTP {
        return answer_http(stream);
    }
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn connect(address: &str, kind: u8) -> Result<TcpStream> {
    let address: SocketAddr = address.parse()?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    let mut byte = [7];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(())
}

fn bulk(address: &str, seconds: &str, streams: &str) -> Result<()> {
    let duration = Duration::from_secs_f64(seconds.parse()?);
    let begin = Instant::now();
    let threads: Vec<_> = (0..streams.parse()?)
        .map(|_| {
            let address = address.to_owned();
            thread::spawn(move || pour(&address, duration))
        })
        .collect();
    let mut bytes = 0;
    for thread in threads {
        bytes += thread.join().map_err(|_| "a stream panicked")??;
    }
    let gigabits = bytes as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9;
    println!("{{\"gigabits_per_s\": {gigabits:.3}, \"gigabytes\": {:.6}}}", bytes as f64 / 1e9);
    Ok(())
}

fn pour(address: &str, duration: Duration) -> Result<u64> {
    let mut stream = connect(address, SINK)?;
    let chunk = vec![0x5a; CHUNK];
    let begin = Instant::now();
    let mut sent = 0_u64;
    while begin.elapsed() < duration {
        stream.write_all(&chunk)?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    if u64::from_be_bytes(total) != sent {
        return Err(format!("{sent} bytes sent, {} arrived", u64::from_be_bytes(total)).into());
    }
    Ok(sent)
}

fn round_trips(address: &str, count: &str) -> Result<()> {
    let mut stream = connect(address, ECHO)?;
    let count: usize = count.parse()?;
    for _ in 0..count / 10 {
        echo(&mut stream)?;
    }
    let mut micros = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        echo(&mut stream)?;
        micros.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    print_round_trips(micros);
    Ok(())
}

fn print_round_trips(mut micros: Vec<f64>) {
    let count = micros.len();
    micros.sort_by(f64::total_cmp);
    let (p50, p99) = (micros[count / 2], micros[count * 99 / 100]);
    println!("{{\"p50_us\": {p50:.1}, \"p99_us\": {p99:.1}, \"million_round_trips\": {:.6}}}", count as f64 * 1.1 / 1e6);
}

fn rate(address: &str, seconds: &str, clients: &str) -> Result<()> {
    repeat(address, seconds, clients, |address| {
        let mut stream = connect(address, ONCE)?;
        echo(&mut stream)?;
        if stream.read(&mut [0])? != 0 {
            return Err("more than was sent came back".into());
        }
        Ok(())
    })
}

/// Connections that are refused, or closed without an answer.
fn refused(address: &str, seconds: &str, clients: &str) -> Result<()> {
    repeat(address, seconds, clients, |address| {
        let outcome = TcpStream::connect_timeout(&address.parse()?, TIMEOUT).and_then(|mut stream| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.read(&mut [0])
        });
        match outcome {
            Ok(0) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => Ok(()),
            other => Err(format!("neither refused nor closed: {other:?}").into()),
        }
    })
}

fn repeat(address: &str, seconds: &str, clients: &str, once: fn(&str) -> Result<()>) -> Result<()> {
    let duration = Duration::from_secs_f64(seconds.parse()?);
    let done = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let threads: Vec<_> = (0..clients.parse()?)
        .map(|_| {
            let (address, done) = (address.to_owned(), Arc::clone(&done));
            thread::spawn(move || -> Result<()> {
                while begin.elapsed() < duration {
                    once(&address)?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a client panicked")??;
    }
    let count = done.load(Ordering::Relaxed) as f64;
    let rate = count / begin.elapsed().as_secs_f64();
    println!("{{\"connections_per_s\": {rate:.0}, \"thousand_connections\": {:.3}}}", count / 1e3);
    Ok(())
}

/// `GET /N` is answered with N bytes, for as long as the connection lasts.
fn answer_http(stream: TcpStream) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut answer = Vec::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let size: usize = line.split_whitespace().nth(1).ok_or("no path")?.trim_start_matches('/').parse()?;
        headers(&mut reader, &mut line)?;
        answer.clear();
        write!(answer, "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n")?;
        answer.resize(answer.len() + size, 0x5a);
        writer.write_all(&answer)?;
    }
}

/// Reads to the end of the headers; returns what they say of the length of the body.
fn headers(reader: &mut BufReader<TcpStream>, line: &mut String) -> Result<usize> {
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(line)? == 0 {
            return Err("the connection ended within headers".into());
        }
        let header = line.trim_end();
        if header.is_empty() {
            return Ok(length);
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
}

struct Http {
    reader: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Http {
    fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address.parse()?, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream), line: String::new(), body: vec![0; CHUNK] })
    }

    fn get(&mut self, size: usize) -> Result<()> {
        let request = format!("GET /{size} HTTP/1.1\r\nhost: bench\r\n\r\n");
        self.reader.get_mut().write_all(request.as_bytes())?;
        self.line.clear();
        self.reader.read_line(&mut self.line)?;
        if !self.line.starts_with("HTTP/1.1 200") {
            return Err(format!("answered {:?}", self.line).into());
        }
        if headers(&mut self.reader, &mut self.line)? != size {
            return Err("a body of another length".into());
        }
        let mut left = size;
        while left > 0 {
            let part = left.min(CHUNK);
            self.reader.read_exact(&mut self.body[..part])?;
            left -= part;
        }
        Ok(())
    }
}

fn http_round_trips(address: &str, count: &str) -> Result<()> {
    let mut http = Http::connect(address)?;
    let count: usize = count.parse()?;
    for _ in 0..count / 10 {
        http.get(1)?;
    }
    let mut micros = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        http.get(1)?;
        micros.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    print_round_trips(micros);
    Ok(())
}

/// Requests for a byte, one after the other on a connection of each client.
fn http_rate(address: &str, seconds: &str, clients: &str) -> Result<()> {
    let duration = Duration::from_secs_f64(seconds.parse()?);
    let begin = Instant::now();
    let threads: Vec<_> = (0..clients.parse()?)
        .map(|_| {
            let address = address.to_owned();
            thread::spawn(move || -> Result<u64> {
                let (mut http, mut done) = (Http::connect(&address)?, 0);
                while begin.elapsed() < duration {
                    http.get(1)?;
                    done += 1;
                }
                Ok(done)
            })
        })
        .collect();
    let mut count = 0;
    for thread in threads {
        count += thread.join().map_err(|_| "a client panicked")??;
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    println!("{{\"requests_per_s\": {rate:.0}, \"thousand_requests\": {:.3}}}", count as f64 / 1e3);
    Ok(())
}

/// Large bodies, one after the other on one connection.
fn download(address: &str, seconds: &str) -> Result<()> {
    let duration = Duration::from_secs_f64(seconds.parse()?);
    let mut http = Http::connect(address)?;
    let begin = Instant::now();
    let mut bytes = 0_u64;
    while begin.elapsed() < duration {
        http.get(DOWNLOAD)?;
        bytes += DOWNLOAD as u64;
    }
    let gigabits = bytes as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9;
    println!("{{\"gigabits_per_s\": {gigabits:.3}, \"gigabytes\": {:.6}}}", bytes as f64 / 1e9);
    Ok(())
}

/// Opens connections, proves each by an echo, and keeps them until standard input ends.
fn idle(address: &str, count: &str) -> Result<()> {
    let count: usize = count.parse()?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(address, ECHO)?;
        echo(&mut stream)?;
        held.push(stream);
    }
    println!("{{\"open\": {}}}", held.len());
    std::io::stdout().flush()?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    for stream in &mut held {
        echo(stream)?;
    }
    println!("{{\"alive\": {}}}", held.len());
    Ok(())
}
