//! The parameters that come as environment variables, checked.

use std::collections::BTreeMap;

use crate::failure::{Code, Failure};

const MAX_VALUE_BYTES: usize = 4096;
const MAX_INTERFACE_BYTES: usize = 15;
const NAMES: [&str; 5] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];

/// The variables as they are; what is missing is empty.
pub struct Environment(BTreeMap<&'static str, Result<String, Failure>>);

/// Which pod an attachment is for, by the arguments that Kubernetes' runtimes pass.
#[derive(Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Environment {
    pub fn of_process() -> Self {
        Self(NAMES.into_iter().map(|name| (name, read(name))).collect())
    }

    pub fn command(&self) -> Result<String, Failure> {
        self.value("CNI_COMMAND")
    }

    /// As the specification restricts it: a letter or digit, then those, `_`, `.` and `-`.
    pub fn container_id(&self) -> Result<String, Failure> {
        let id = self.value("CNI_CONTAINERID")?;
        let begins = id.chars().next().is_some_and(|first| first.is_ascii_alphanumeric());
        if !begins || !id.chars().all(|one| one.is_ascii_alphanumeric() || "_.-".contains(one)) {
            return Err(invalid("CNI_CONTAINERID", "is no container id"));
        }
        Ok(id)
    }

    /// As Linux restricts it.
    pub fn interface(&self) -> Result<String, Failure> {
        let name = self.value("CNI_IFNAME")?;
        let forbidden = |one: char| one == '/' || one == ':' || one.is_whitespace() || one.is_control();
        if name.is_empty() || name.len() > MAX_INTERFACE_BYTES || name == "." || name == ".." || name.chars().any(forbidden) {
            return Err(invalid("CNI_IFNAME", "is no name of an interface"));
        }
        Ok(name)
    }

    /// The path of the network namespace, absolute.
    pub fn namespace_path(&self) -> Result<String, Failure> {
        let path = self.value("CNI_NETNS")?;
        if !path.starts_with('/') {
            return Err(invalid("CNI_NETNS", "is no absolute path"));
        }
        Ok(path)
    }

    /// None for what is no pod: another user of the same network. A pod that is named in part is an error, never none.
    pub fn pod(&self) -> Result<Option<Pod>, Failure> {
        let text = self.value("CNI_ARGS")?;
        let mut arguments = BTreeMap::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(invalid("CNI_ARGS", "has a part that is not KEY=VALUE"));
            };
            if arguments.insert(key, value).is_some_and(|before| before != value) {
                return Err(invalid("CNI_ARGS", "says two things of one key"));
            }
        }
        let of = |key: &str| arguments.get(key).copied().unwrap_or_default().to_owned();
        let pod = Pod { namespace: of("K8S_POD_NAMESPACE"), name: of("K8S_POD_NAME"), uid: of("K8S_POD_UID") };
        match [&pod.namespace, &pod.name, &pod.uid].map(|part| part.is_empty()) {
            [true, true, true] => Ok(None),
            [false, false, false] => Ok(Some(pod)),
            _ => Err(invalid("CNI_ARGS", "names a pod without K8S_POD_NAMESPACE, K8S_POD_NAME or K8S_POD_UID")),
        }
    }

    fn value(&self, name: &str) -> Result<String, Failure> {
        match self.0.get(name) {
            Some(Ok(value)) => Ok(value.clone()),
            Some(Err(_)) => Err(invalid(name, "is not UTF-8, or too long")),
            None => Ok(String::new()),
        }
    }
}

fn read(name: &str) -> Result<String, Failure> {
    let value = std::env::var_os(name).unwrap_or_default();
    match value.into_string() {
        Ok(text) if text.len() <= MAX_VALUE_BYTES => Ok(text),
        _ => Err(invalid(name, "is not UTF-8, or too long")),
    }
}

fn invalid(name: &str, why: &str) -> Failure {
    Failure::new(Code::Environment, &format!("{name} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &'static str, value: &str) -> Environment {
        Environment(BTreeMap::from([(name, Ok(value.to_owned()))]))
    }

    #[test]
    fn pods_are_named_whole_or_not_at_all() {
        let pod = |text: &str| environment("CNI_ARGS", text).pod();
        assert_eq!(pod(""), Ok(None));
        assert_eq!(pod("IgnoreUnknown=1;"), Ok(None));
        let whole = Pod { namespace: "a".into(), name: "b".into(), uid: "c".into() };
        assert_eq!(pod("IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c"), Ok(Some(whole)));
        for text in ["K8S_POD_NAME=b", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b", "K8S_POD_UID=", "x", "A=1;A=2"] {
            assert_eq!(pod(text).is_err(), text != "K8S_POD_UID=", "{text}");
        }
    }

    #[test]
    fn names_are_what_the_kernel_and_the_specification_take() {
        for (text, good) in [("eth0", true), ("", false), ("a/b", false), ("..", false), ("0123456789abcdef", false), ("a b", false)] {
            assert_eq!(environment("CNI_IFNAME", text).interface().is_ok(), good, "{text}");
        }
        for (text, good) in [("a1_.-", true), ("", false), ("-a", false), ("a/b", false), ("\u{e9}", false)] {
            assert_eq!(environment("CNI_CONTAINERID", text).container_id().is_ok(), good, "{text}");
        }
        for (text, good) in [("/run/netns/a", true), ("", false), ("run", false)] {
            assert_eq!(environment("CNI_NETNS", text).namespace_path().is_ok(), good, "{text}");
        }
    }
}
