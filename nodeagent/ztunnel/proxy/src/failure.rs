//! Why a connection failed: the response flag of the stage where it happened, and words for the person who reads the log.

use std::fmt;

macro_rules! flags {
    ($($name:ident),+) => {
        /// Response flags; docs/architecture.md says what each means.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(clippy::upper_case_acronyms, reason = "these are the names on the wire")]
        pub enum Flag { $($name),+ }

        impl Flag {
            pub const ALL: &'static [Flag] = &[$(Flag::$name),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Flag::$name => stringify!($name)),+ }
            }
        }
    };
}

flags!(NR, UH, UF, UAEX, DT, UO, DPE, SI);

impl Flag {
    pub fn parse(text: &str) -> Option<Flag> {
        Flag::ALL.iter().copied().find(|flag| flag.as_str() == text)
    }
}

/// What is kept of a text: it may quote what a peer chose, and waits with thousands of others for the agent to take it.
const MAX_TEXT_BYTES: usize = 1024;

/// A failure carries its flag from where it happened; nothing is guessed afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// None: the connection was up, and one of its two ends reset it.
    pub flag: Option<Flag>,
    /// Nothing came where something had to: whoever is there does not speak, or nobody is.
    pub is_silent: bool,
    text: String,
}

impl Failure {
    pub fn new(flag: Flag, text: impl Into<String>) -> Self {
        Self { flag: Some(flag), is_silent: false, text: cut(text.into()) }
    }

    pub fn silent(flag: Flag, text: impl Into<String>) -> Self {
        Self { is_silent: true, ..Self::new(flag, text) }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// As it is, or with this flag if it had none: before a connection is up, a reset is a failure of the stage that it met.
    pub fn or_flag(self, flag: Flag) -> Self {
        Self { flag: self.flag.or(Some(flag)), ..self }
    }

    pub fn reset(text: impl Into<String>) -> Self {
        Self { flag: None, is_silent: false, text: cut(text.into()) }
    }
}

/// The text, or its beginning and a mark that there was more.
fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flag {
            Some(flag) => write!(f, "{}: {}", flag.as_str(), self.text),
            None => f.write_str(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_beginning_whatever_it_quotes() {
        let long = "\u{e9}".repeat(MAX_TEXT_BYTES);
        for failure in [Failure::new(Flag::DPE, format!("x{long}")), Failure::reset(format!("x{long}"))] {
            assert!(failure.text().len() <= MAX_TEXT_BYTES + '…'.len_utf8());
            assert!(failure.text().starts_with("x\u{e9}") && failure.text().ends_with("\u{e9}…"));
        }
        assert_eq!(Failure::reset("short").text(), "short");
    }
}
