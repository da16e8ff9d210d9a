//! The kinds of value an option can have: how each is read from text, from TOML, and shown again.
//!
//! Everything a user may write is parsed here, once, so that the same value means the same in the file, in the
//! environment and on the command line. Errors say what was expected; the caller adds where.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::url::redact_url;
use crate::task::PlanName;

/// What a value looks like in `selvedge.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A string that is never shown again.
    Secret,
    /// A string holding a server URL, whose password is never shown again.
    Url,
    /// A list of server URLs; in the environment, separated by commas.
    Urls,
    /// A path to a file.
    Path,
    /// `host:port`.
    Address,
    /// A whole number.
    Count,
    /// `true` or `false`.
    Flag,
    /// `"250ms"`, `"15s"`, `"1h30m"`.
    Duration,
    /// `"16KiB"`, `"1GiB"`.
    Size,
    /// One of a closed set of words.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// The kind in words, for messages and documentation.
    pub fn describe(self) -> String {
        match self {
            Kind::Text => "a string".into(),
            Kind::Secret => "a string (secret)".into(),
            Kind::Url => "a URL".into(),
            Kind::Urls => "a list of URLs".into(),
            Kind::Path => "a path".into(),
            Kind::Address => "host:port".into(),
            Kind::Count => "a whole number".into(),
            Kind::Flag => "true or false".into(),
            Kind::Duration => "a duration such as \"15s\" or \"1h30m\"".into(),
            Kind::Size => "a size such as \"256KiB\" or \"1GiB\"".into(),
            Kind::Choice(words) => words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(" or "),
        }
    }

    /// `text` as it is written in TOML.
    pub fn to_toml(self, text: &str) -> String {
        let quoted = |s: &str| toml::Value::from(s).to_string();
        match self {
            Kind::Count | Kind::Flag => text.to_owned(),
            Kind::Urls => {
                let items: Vec<_> = text.split(',').map(|url| quoted(url.trim())).collect();
                format!("[{}]", items.join(", "))
            }
            _ => quoted(text),
        }
    }

    /// `text` as it may be shown to anybody.
    pub fn redact(self, text: &str) -> String {
        match self {
            Kind::Secret => "********".to_owned(),
            Kind::Url => redact_url(text),
            Kind::Urls => text.split(',').map(|url| redact_url(url.trim())).collect::<Vec<_>>().join(","),
            _ => text.to_owned(),
        }
    }
}

/// A type an option can have.
pub trait Setting: Sized {
    /// How it is written.
    const KIND: Kind;
    /// Reads it from its textual form; the error says what was expected.
    fn parse(text: &str) -> Result<Self, String>;
    /// An unset option's value, for the types that have one.
    fn unset() -> Option<Self> {
        None
    }
}

impl<T: Setting> Setting for Option<T> {
    const KIND: Kind = T::KIND;
    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }
    fn unset() -> Option<Self> {
        Some(None)
    }
}

impl Setting for String {
    const KIND: Kind = Kind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        match text.chars().any(char::is_control) {
            true => Err("must not contain control characters".into()),
            false => Ok(text.to_owned()),
        }
    }
}

impl Setting for PathBuf {
    const KIND: Kind = Kind::Path;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must not be empty".into()) } else { Ok(PathBuf::from(text)) }
    }
}

impl Setting for SocketAddr {
    const KIND: Kind = Kind::Address;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:7717".into())
    }
}

impl Setting for u64 {
    const KIND: Kind = Kind::Count;
    fn parse(text: &str) -> Result<Self, String> {
        // TOML allows 10_000; whoever moves such a value to the environment should not be surprised.
        text.replace('_', "").parse().map_err(|_| "expected a whole number, zero or more".into())
    }
}

impl Setting for bool {
    const KIND: Kind = Kind::Flag;
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("expected true or false".into()),
        }
    }
}

impl Setting for PlanName {
    const KIND: Kind = Kind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        PlanName::new(text).map_err(|error| error.to_string())
    }
}

/// What is logged; checked like any other value, so that a mistake is told with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(pub String);

impl Setting for LogFilter {
    const KIND: Kind = Kind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        match tracing_subscriber::EnvFilter::builder().parse(text) {
            Ok(_) => Ok(LogFilter(text.to_owned())),
            Err(error) => {
                Err(format!("expected a level (error, warn, info, debug, trace) or module=level: {error}"))
            }
        }
    }
}

/// Declares an option type that is one of a closed set of words.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// The word a user writes for it.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl Setting for $name {
            const KIND: Kind = Kind::Choice(&[$($word),+]);
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(format!("expected {}", Self::KIND.describe())),
                }
            }
        }
    };
}

choice! {
    /// What a starting coordinator does about streams and buckets. It never changes one that is there.
    Provision {
        /// Create what is missing; refuse what breaks a promise.
        Auto = "auto",
        /// Create nothing; refuse any difference.
        Check = "check",
        /// Create nothing; refuse what is missing or breaks a promise.
        Never = "never",
    }
}

choice! {
    /// What becomes of a submit by a tenant nobody has set up.
    UnknownTenants {
        /// It gets the default plan.
        DefaultPlan = "default-plan",
        /// It is refused.
        Refuse = "refuse",
    }
}

choice! {
    /// The shape of log lines.
    LogFormat {
        /// `Pretty` on a terminal, else `Json`.
        Auto = "auto",
        /// For people.
        Pretty = "pretty",
        /// One object a line.
        Json = "json",
    }
}
