//! The specification's commands: what each asks the agent, and what the runtime is answered.

use std::time::Duration;

use serde_json::{Value, json};

use crate::agent;
use crate::configuration::{Configuration, VERSIONS};
use crate::environment::{Environment, Pod};
use crate::failure::{Code, Failure};

/// What a removal waits for the agent: it is told for its records' sake, and removes nothing that a pod's end would not remove.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(2);
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// The version that an error is to be told in, and what to print.
pub fn run(environment: &Environment, input: &[u8]) -> (Option<String>, Result<String, Failure>) {
    let command = match environment.command() {
        Ok(command) => command,
        Err(failure) => return (None, Err(failure)),
    };
    if command == "VERSION" {
        return (None, Ok(json!({"cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS}).to_string()));
    }
    let configuration = match Configuration::parse(input) {
        Ok(configuration) => configuration,
        // A removal that fails is tried for ever, and keeps a pod from ending.
        Err(_) if command == "DEL" => return (None, Ok(String::new())),
        Err(failure) => return (None, Err(failure)),
    };
    let outcome = match command.as_str() {
        "ADD" => add(environment, &configuration),
        "DEL" => Ok(delete(environment, &configuration)),
        "CHECK" => check(environment, &configuration),
        "GC" => collect(&configuration),
        "STATUS" => status(&configuration),
        _ => Err(Failure::new(Code::Environment, "CNI_COMMAND is none of ADD, DEL, CHECK, GC, STATUS, VERSION")),
    };
    (Some(configuration.version), outcome)
}

fn add(environment: &Environment, configuration: &Configuration) -> Result<String, Failure> {
    let previous = configuration.previous()?;
    if let Some(pod) = meshed(environment, configuration)? {
        let question = attachment("add", environment, configuration, &pod)?;
        agent::ask(&configuration.socket, &question, configuration.deadline)?;
    }
    Ok(previous.to_string())
}

/// Never fails: a pod whose agent is away must be able to end.
fn delete(environment: &Environment, configuration: &Configuration) -> String {
    if let (Ok(container_id), Ok(interface)) = (environment.container_id(), environment.interface()) {
        let question = json!({"version": agent::VERSION, "command": "delete", "container_id": container_id, "ifname": interface});
        let _ = agent::ask(&configuration.socket, &question, REMOVAL_DEADLINE);
    }
    String::new()
}

fn check(environment: &Environment, configuration: &Configuration) -> Result<String, Failure> {
    configuration.previous()?;
    if let Some(pod) = meshed(environment, configuration)? {
        let question = attachment("check", environment, configuration, &pod)?;
        agent::ask(&configuration.socket, &question, configuration.deadline)?;
    }
    Ok(String::new())
}

fn collect(configuration: &Configuration) -> Result<String, Failure> {
    let Some(valid) = configuration.valid_attachments()? else {
        return Ok(String::new());
    };
    let attachments: Vec<Value> =
        valid.into_iter().map(|(container_id, ifname)| json!({"container_id": container_id, "ifname": ifname})).collect();
    let question = json!({"version": agent::VERSION, "command": "collect", "attachments": attachments});
    agent::ask(&configuration.socket, &question, STATUS_DEADLINE)?;
    Ok(String::new())
}

fn status(configuration: &Configuration) -> Result<String, Failure> {
    let question = json!({"version": agent::VERSION, "command": "status"});
    match agent::ask(&configuration.socket, &question, STATUS_DEADLINE) {
        Ok(()) => Ok(String::new()),
        Err(failure) => Err(failure.instead(Code::Unavailable)),
    }
}

/// The pod that is to be captured if it is enrolled: None where nobody ever is.
fn meshed(environment: &Environment, configuration: &Configuration) -> Result<Option<Pod>, Failure> {
    Ok(environment.pod()?.filter(|pod| !configuration.exempts(&pod.namespace)))
}

fn attachment(command: &str, environment: &Environment, configuration: &Configuration, pod: &Pod) -> Result<Value, Failure> {
    Ok(json!({
        "version": agent::VERSION,
        "command": command,
        "container_id": environment.container_id()?,
        "ifname": environment.interface()?,
        "netns": environment.namespace_path()?,
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "addresses": configuration.addresses()?,
        "deadline_s": configuration.deadline.as_secs(),
    }))
}
