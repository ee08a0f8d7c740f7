//! nodemesh-proxy: moves the bytes of a node's enrolled workloads. What it does with each connection the agent decides;
//! it reads no configuration and knows no policy.

#![forbid(unsafe_code)]

mod answers;
mod arguments;
mod authority;
mod buffers;
mod control;
mod copy;
mod endpoints;
mod failure;
mod health;
mod inbound;
mod limits;
mod lock;
mod log;
mod messages;
mod namespaces;
mod outbound;
mod pool;
mod protocol;
mod readiness;
mod series;
mod service_manager;
mod signal;
mod sys;
mod tunnel;
mod worker;

use arguments::Arguments;
use control::{Control, Process};
use hbone_tls::{Trust, TrustStore};
use limits::Usage;
use namespaces::SocketMaker;
use service_manager::{Beats, ServiceManager};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use worker::{Shared, Worker};

/// Another process holds the lock.
const EXIT_LOCKED: u8 = 3;

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("nodemesh-proxy: {error}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    let _lock = match lock::take(&arguments.lock) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            eprintln!("nodemesh-proxy: another process holds {}", arguments.lock.display());
            return ExitCode::from(EXIT_LOCKED);
        }
        Err(error) => {
            eprintln!("nodemesh-proxy: {}: {error}", arguments.lock.display());
            return ExitCode::FAILURE;
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nodemesh-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    sys::forbid_core_dumps()?;
    sys::raise_descriptor_limit();
    let usage = Arc::new(Usage::default());
    // Until the agent has sent roots, nobody is believed.
    let trust = Trust::new(TrustStore::new::<&str, &str>([], []).0);
    let (to_control, from_workers) = unbounded_channel();
    let beats = Arc::new(Beats::new(arguments.workers));
    let shared = Shared {
        worker_count: arguments.workers as u64,
        usage: usage.clone(),
        trust: trust.clone(),
        control: to_control,
        sockets: SocketMaker::start()?,
        beats: beats.clone(),
    };
    let workers = (0..arguments.workers).map(|index| start_worker(index, shared.clone())).collect::<io::Result<Vec<_>>>()?;
    let process = Process { instance: instance()?, started_s: worker::unix_time().as_secs_f64() };
    let service_manager = ServiceManager::from_environment(beats)?;
    service_manager.ready();
    let control = Control::new(arguments.socket, process, workers, usage, trust, service_manager);
    runtime()?.block_on(control.run(from_workers));
    Ok(())
}

fn start_worker(index: usize, shared: Shared) -> io::Result<UnboundedSender<messages::ToWorker>> {
    let (sender, receiver) = unbounded_channel();
    let runtime = runtime()?;
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || serve(&runtime, index, shared, receiver))?;
    Ok(sender)
}

fn serve(runtime: &tokio::runtime::Runtime, index: usize, shared: Shared, messages: UnboundedReceiver<messages::ToWorker>) {
    let _end = EndOfWorker;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(runtime, async move { Worker::new(index, shared).run(messages).await });
}

/// A panic in the task of a connection ends that connection. One in what all of a worker's connections hang on (its messages, its
/// sweeps) would leave decisions unheeded: then the process ends, and the agent starts another.
struct EndOfWorker;

impl Drop for EndOfWorker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()
}

/// Random per process, so that an agent can tell a restarted proxy from one that is still there.
fn instance() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
