//! One question to the node agent and its answer: a line of JSON each, over a unix socket whose owner is checked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::failure::{Code, Failure};

/// Of the questions: an agent that speaks another one says so.
pub const VERSION: u64 = 1;
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Returns when the agent says that all is well; its refusal, its absence and its silence are failures.
pub fn ask(socket: &str, question: &Value, deadline: Duration) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel();
    let (path, line) = (socket.to_owned(), format!("{question}\n"));
    // In a thread of its own, since connecting to a socket whose backlog is full has no deadline; it ends with the process.
    std::thread::spawn(move || sender.send(converse(&path, &line)));
    match receiver.recv_timeout(deadline) {
        Ok(outcome) => outcome.and_then(|answer| judge(&answer)),
        Err(_) => {
            let words = format!("the node agent did not answer within {} s", deadline.as_secs());
            Err(Failure::new(Code::TryAgain, &words))
        }
    }
}

fn converse(path: &str, line: &str) -> Result<String, Failure> {
    let away = |error: std::io::Error| {
        Failure::new(
            Code::TryAgain,
            &format!("the node agent can't be reached at {path}, so nobody can say whether the pod is in the mesh"),
        )
        .with_details(&format!("{error}; is the agent's pod of this node running?"))
    };
    let mut stream = UnixStream::connect(path).map_err(away)?;
    check_owner(&stream)?;
    stream.write_all(line.as_bytes()).map_err(away)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut answer).map_err(away)?;
    Ok(answer)
}

/// Who listens there must be who runs this: another user's word would let a pod start that is not captured.
fn check_owner(stream: &UnixStream) -> Result<(), Failure> {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) if peer.uid == rustix::process::geteuid() => Ok(()),
        _ => Err(Failure::new(Code::TryAgain, "whoever listens on the node agent's socket is not the node agent")),
    }
}

fn judge(answer: &str) -> Result<(), Failure> {
    let value: Value = serde_json::from_str(answer).unwrap_or_default();
    if value.get("ok").and_then(Value::as_bool) == Some(true) {
        return Ok(());
    }
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    match value.get("code").and_then(Value::as_u64) {
        Some(code) if code > 0 => Err(Failure::of_agent(code, text("message"), text("details"))),
        _ => Err(Failure::new(Code::TryAgain, "the node agent's answer can't be understood")),
    }
}
