//! What a service manager hears: that this process is there, and, as long as every thread of it turns, that it lives. sd_notify(3).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// One count for each worker, which it raises while it turns.
pub struct Beats(Box<[AtomicU64]>);

impl Beats {
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicU64::new(0)).collect())
    }

    pub fn beat(&self, worker: usize) {
        self.0[worker].fetch_add(1, Relaxed);
    }

    fn now(&self) -> Vec<u64> {
        self.0.iter().map(|count| count.load(Relaxed)).collect()
    }
}

pub struct ServiceManager {
    /// None: nobody asked.
    socket: Option<UnixDatagram>,
    /// None: it wants to hear nothing after the beginning.
    period: Option<Duration>,
    due: Instant,
    beats: Arc<Beats>,
    heard: Vec<u64>,
}

impl ServiceManager {
    /// As the environment says. A manager that can't be told acts on its silence.
    pub fn from_environment(beats: Arc<Beats>) -> io::Result<Self> {
        let address = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
        let ours = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let watchdog = std::env::var("WATCHDOG_USEC").ok().filter(|_| ours).and_then(|text| text.parse().ok());
        Self::new(&address, watchdog.map(Duration::from_micros), beats)
    }

    fn new(address: &str, watchdog: Option<Duration>, beats: Arc<Beats>) -> io::Result<Self> {
        let socket = if address.is_empty() { None } else { Some(connected(address)?) };
        let period = watchdog.map(|within| within / 3);
        Ok(Self { socket, period, due: Instant::now(), heard: vec![u64::MAX; beats.0.len()], beats })
    }

    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// To be called again and again by the control thread: it says that it lives if every worker has turned since it said so last.
    pub fn tick(&mut self, now: Instant) {
        let Some(period) = self.period.filter(|_| now >= self.due) else {
            return;
        };
        let beats = self.beats.now();
        if beats.iter().zip(&self.heard).any(|(now, heard)| now == heard) {
            return;
        }
        self.tell("WATCHDOG=1");
        (self.heard, self.due) = (beats, now + period);
    }

    fn tell(&self, words: &str) {
        if let Some(socket) = &self.socket {
            // One that is full, or being started again, hears the next.
            let _ = socket.send(words.as_bytes());
        }
    }
}

/// An address that begins with @ is of the abstract namespace.
fn connected(address: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match address.strip_prefix('@') {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_hangs_silences_the_process() {
        let name = format!("nodemesh-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let heard = || {
            let mut bytes = [0; 64];
            manager.recv(&mut bytes).map(|size| String::from_utf8_lossy(&bytes[..size]).into_owned()).ok()
        };
        let beats = Arc::new(Beats::new(2));
        let mut service = ServiceManager::new(&format!("@{name}"), Some(Duration::from_secs(30)), beats.clone()).unwrap();
        let begun = Instant::now();
        service.ready();
        assert_eq!(heard().as_deref(), Some("READY=1"));
        service.tick(begun);
        assert_eq!(heard().as_deref(), Some("WATCHDOG=1"));
        let both = || (0..2).for_each(|worker| beats.beat(worker));
        both();
        service.tick(begun + Duration::from_secs(9));
        assert_eq!(heard(), None, "it is not due");
        service.tick(begun + Duration::from_secs(10));
        assert_eq!(heard().as_deref(), Some("WATCHDOG=1"));
        beats.beat(0);
        service.tick(begun + Duration::from_secs(60));
        assert_eq!(heard(), None, "the other one hangs");
        beats.beat(1);
        service.tick(begun + Duration::from_secs(61));
        assert_eq!(heard().as_deref(), Some("WATCHDOG=1"));
    }

    #[test]
    fn nobody_asked() {
        let mut service = ServiceManager::new("", None, Arc::new(Beats::new(1))).unwrap();
        service.ready();
        service.tick(Instant::now());
    }
}
