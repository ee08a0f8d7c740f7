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

/// A failure carries its flag from where it happened; nothing is guessed afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// None: the connection was up, and one of its two ends reset it.
    pub flag: Option<Flag>,
    pub text: String,
}

impl Failure {
    pub fn new(flag: Flag, text: impl Into<String>) -> Self {
        Self { flag: Some(flag), text: text.into() }
    }

    /// As it is, or with this flag if it had none: before a connection is up, a reset is a failure of the stage that it met.
    pub fn or_flag(self, flag: Flag) -> Self {
        Self { flag: self.flag.or(Some(flag)), ..self }
    }

    pub fn reset(text: impl Into<String>) -> Self {
        Self { flag: None, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flag {
            Some(flag) => write!(f, "{}: {}", flag.as_str(), self.text),
            None => f.write_str(&self.text),
        }
    }
}
