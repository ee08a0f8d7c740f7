//! The network configuration from standard input: what the agent wrote into it, and what the plugins before have done.

use std::time::Duration;

use serde_json::Value;

use crate::failure::{Code, Failure};

pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The result of the plugins before included. More is read by one byte, so that it is seen.
pub const MAX_INPUT_BYTES: u64 = 1 << 20;
const DEFAULT_DEADLINE_S: u64 = 30;
const MAX_DEADLINE_S: u64 = 110;
const MAX_ADDRESSES: usize = 64;

pub struct Configuration {
    pub version: String,
    pub socket: String,
    /// How long a pod may wait for the agent.
    pub deadline: Duration,
    exempt_namespaces: Vec<String>,
    previous: Option<Value>,
    valid_attachments: Option<Value>,
}

impl Configuration {
    pub fn parse(input: &[u8]) -> Result<Self, Failure> {
        if input.len() as u64 > MAX_INPUT_BYTES {
            return Err(Failure::new(Code::Decoding, &format!("the network configuration is larger than {MAX_INPUT_BYTES} bytes")));
        }
        let value: Value = serde_json::from_slice(input)
            .map_err(|error| Failure::new(Code::Decoding, "the network configuration is no JSON").with_details(&error.to_string()))?;
        let Value::Object(mut object) = value else {
            return Err(Failure::new(Code::Decoding, "the network configuration is no JSON object"));
        };
        let version = text(object.get("cniVersion"), "cniVersion")?.unwrap_or_default();
        if !VERSIONS.contains(&version.as_str()) {
            let words = format!("CNI version {version:?} is none of {}", VERSIONS.join(", "));
            return Err(Failure::new(Code::Version, &words));
        }
        let socket = text(object.get("socket"), "socket")?.filter(|path| path.starts_with('/'));
        Ok(Self {
            version,
            socket: socket.ok_or_else(|| invalid("`socket` must be the absolute path of the node agent's socket"))?,
            deadline: deadline(object.get("deadline_s"))?,
            exempt_namespaces: texts(object.get("exempt_namespaces"), "exempt_namespaces")?,
            previous: object.remove("prevResult").filter(|previous| !previous.is_null()),
            valid_attachments: object.remove("cni.dev/valid-attachments"),
        })
    }

    /// Whether pods of a namespace are never captured, so that they need not wait for the agent, nor for its being there.
    pub fn exempts(&self, namespace: &str) -> bool {
        self.exempt_namespaces.iter().any(|exempt| exempt == namespace)
    }

    /// The result of the plugins before, which is passed on as it is.
    pub fn previous(&self) -> Result<&Value, Failure> {
        self.previous.as_ref().ok_or_else(|| invalid("`prevResult` is missing: the plugin only works behind another one"))
    }

    /// The addresses in the result of the plugins before, without their prefix lengths.
    pub fn addresses(&self) -> Result<Vec<String>, Failure> {
        let listed = match self.previous()?.get("ips") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(listed)) if listed.len() <= MAX_ADDRESSES => listed,
            Some(_) => return Err(invalid("`prevResult.ips` is no list of addresses, or a very long one")),
        };
        listed.iter().map(address).collect()
    }

    /// What is still in use: pairs of container id and interface, None if the runtime does not say.
    pub fn valid_attachments(&self) -> Result<Option<Vec<(String, String)>>, Failure> {
        let bad = || invalid("`cni.dev/valid-attachments` is no list of attachments");
        let listed = match &self.valid_attachments {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(listed)) => listed,
            Some(_) => return Err(bad()),
        };
        let part = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(bad);
        listed.iter().map(|entry| Ok((part(entry, "containerID")?, part(entry, "ifname")?))).collect::<Result<_, _>>().map(Some)
    }
}

fn address(entry: &Value) -> Result<String, Failure> {
    let bad = || invalid("`prevResult.ips` has an entry without an address");
    let text = entry.get("address").and_then(Value::as_str).ok_or_else(bad)?;
    let (address, _prefix) = text.split_once('/').unwrap_or((text, ""));
    let parsed: std::net::IpAddr = address.parse().map_err(|_| bad())?;
    Ok(parsed.to_string())
}

fn deadline(value: Option<&Value>) -> Result<Duration, Failure> {
    match value {
        None => Ok(Duration::from_secs(DEFAULT_DEADLINE_S)),
        Some(value) => match value.as_u64() {
            Some(seconds) if (1..=MAX_DEADLINE_S).contains(&seconds) => Ok(Duration::from_secs(seconds)),
            _ => Err(invalid(&format!("`deadline_s` must be a whole number from 1 to {MAX_DEADLINE_S}"))),
        },
    }
}

fn text(value: Option<&Value>, name: &str) -> Result<Option<String>, Failure> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(invalid(&format!("`{name}` must be a text"))),
    }
}

fn texts(value: Option<&Value>, name: &str) -> Result<Vec<String>, Failure> {
    let bad = || invalid(&format!("`{name}` must be a list of texts"));
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(listed)) => listed.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(bad)).collect(),
        Some(_) => Err(bad()),
    }
}

fn invalid(words: &str) -> Failure {
    Failure::new(Code::Configuration, words)
}
