//! The command line. All else comes from the agent.

use lexopt::{Arg, Parser, ValueExt};
use std::path::PathBuf;

pub const USAGE: &str = "usage: nodemesh-proxy --socket PATH --lock PATH [--workers N]";

pub struct Arguments {
    /// Where the agent listens.
    pub socket: PathBuf,
    /// Held while this process lives; holds its pid.
    pub lock: PathBuf,
    pub workers: usize,
}

impl Arguments {
    pub fn parse() -> Result<Self, lexopt::Error> {
        Self::read(Parser::from_env())
    }

    fn read(mut parser: Parser) -> Result<Self, lexopt::Error> {
        let (mut socket, mut lock) = (None, None);
        let mut workers = std::thread::available_parallelism().map_or(1, usize::from);
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("socket") => socket = Some(PathBuf::from(parser.value()?)),
                Arg::Long("lock") => lock = Some(PathBuf::from(parser.value()?)),
                Arg::Long("workers") => workers = parser.value()?.parse()?,
                other => return Err(other.unexpected()),
            }
        }
        if workers == 0 {
            return Err("--workers is 1 at least".into());
        }
        Ok(Self { socket: socket.ok_or("--socket is missing")?, lock: lock.ok_or("--lock is missing")?, workers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_paths_are_needed() {
        let read = |arguments: &[&str]| Arguments::read(Parser::from_args(arguments));
        assert!(read(&["--socket", "a", "--lock", "b", "--workers", "3"]).is_ok_and(|arguments| arguments.workers == 3));
        for wrong in [&["--socket", "a"][..], &["--lock", "b"], &["--socket", "a", "--lock", "b", "--workers", "0"], &["--what"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
