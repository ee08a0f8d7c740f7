//! What went wrong, as the CNI specification has it told: a code, a short and a long text.

use serde_json::{Map, Value};

/// The specification's codes, and from 100 on our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Version = 1,
    Environment = 4,
    Io = 5,
    Decoding = 6,
    Configuration = 7,
    TryAgain = 11,
    Unavailable = 50,
    Internal = 999,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    code: u64,
    message: String,
    details: String,
}

impl Failure {
    pub fn new(code: Code, message: &str) -> Self {
        Self::of_agent(code as u64, message, "")
    }

    /// Code and texts are the agent's.
    pub fn of_agent(code: u64, message: &str, details: &str) -> Self {
        Self { code, message: format!("nodemesh: {message}"), details: details.to_owned() }
    }

    pub fn with_details(mut self, details: &str) -> Self {
        self.details = details.to_owned();
        self
    }

    /// The same under another code.
    pub fn instead(mut self, code: Code) -> Self {
        self.code = code as u64;
        self
    }

    /// The specification's object; `version` is that of the configuration, if it could be read.
    pub fn as_json(&self, version: Option<&str>) -> String {
        let mut object = Map::new();
        object.insert("cniVersion".to_owned(), Value::from(version.unwrap_or("1.0.0")));
        object.insert("code".to_owned(), Value::from(self.code));
        object.insert("msg".to_owned(), Value::from(self.message.as_str()));
        if !self.details.is_empty() {
            object.insert("details".to_owned(), Value::from(self.details.as_str()));
        }
        Value::Object(object).to_string()
    }
}
