//! A chained CNI plugin that changes nothing itself: it tells the node agent of each pod and waits for its word.
//!
//! Everything that is read here (environment, configuration, the agent's answer) is bounded, and whatever is wrong with it ends in
//! an error as the CNI specification defines them, never in a crash.

mod agent;
mod commands;
mod configuration;
mod environment;
mod failure;

use std::io::{Read, Write};
use std::process::ExitCode;

use crate::configuration::MAX_INPUT_BYTES;
use crate::environment::Environment;
use crate::failure::{Code, Failure};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let failure = Failure::new(Code::Internal, "the plugin failed").with_details(&info.to_string());
        print(&failure.as_json(None));
        std::process::exit(1);
    }));
    let mut input = Vec::new();
    let (version, outcome) = match std::io::stdin().lock().take(MAX_INPUT_BYTES + 1).read_to_end(&mut input) {
        Ok(_) => commands::run(&Environment::of_process(), &input),
        Err(error) => (None, Err(Failure::new(Code::Io, "the network configuration can't be read").with_details(&error.to_string()))),
    };
    match outcome {
        Ok(output) => {
            print(&output);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            print(&failure.as_json(version.as_deref()));
            ExitCode::FAILURE
        }
    }
}

/// Who closed the other end wants to hear nothing.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
