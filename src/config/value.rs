//! The kinds of value an option can have: how each is read from text, from TOML, and shown again.
//!
//! Everything a user may write is parsed here, once, so that the same value means the same in the file, in the
//! environment and on the command line. Errors say what was expected; the caller adds where.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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

impl Setting for Duration {
    const KIND: Kind = Kind::Duration;
    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text)
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

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl Setting for ByteSize {
    const KIND: Kind = Kind::Size;
    fn parse(text: &str) -> Result<Self, String> {
        parse_size(text).map(ByteSize)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZES.iter().rev().find(|(_, factor)| {
            self.0 >= *factor && self.0.is_multiple_of(*factor) && factor.is_power_of_two()
        });
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A value that neither `Debug` nor `config show` ever prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one place that hands it to a server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(********)")
    }
}

impl Setting for Secret {
    const KIND: Kind = Kind::Secret;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Secret(text.to_owned()))
    }
}

/// The URL of a server; `Display` and `Debug` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// The URL with its credentials, for the one place that connects.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let text = text.trim();
        let expected = || format!("expected a URL such as {}127.0.0.1", schemes[0]);
        if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(expected());
        }
        match text.split_once("://") {
            Some((scheme, rest))
                if !rest.is_empty() && schemes.contains(&format!("{scheme}://").as_str()) => {}
            Some(_) => return Err(format!("{}; supported: {}", expected(), schemes.join(" "))),
            None => return Ok(ServerUrl(format!("{}{text}", schemes[0]))),
        }
        Ok(ServerUrl(text.to_owned()))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact_url(&self.0))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

/// One or more NATS servers of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsUrls(pub Vec<ServerUrl>);

impl Setting for NatsUrls {
    const KIND: Kind = Kind::Urls;
    fn parse(text: &str) -> Result<Self, String> {
        let urls: Result<Vec<_>, _> =
            text.split(',').map(|url| ServerUrl::parse(url, &["nats://", "tls://"])).collect();
        urls.map(NatsUrls)
    }
}

/// The Redis or Valkey server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl(pub ServerUrl);

impl Setting for RedisUrl {
    const KIND: Kind = Kind::Url;
    fn parse(text: &str) -> Result<Self, String> {
        ServerUrl::parse(text, &["redis://", "rediss://", "redis+unix://", "unix://"]).map(RedisUrl)
    }
}

/// `text` with the password of its user part replaced.
///
/// A token (`nats://token@host`) is a secret too, so a user part without a colon is hidden whole.
pub fn redact_url(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    // A password may itself hold an unescaped '@', so the last one ends the user part.
    let Some((user, host)) = rest.rsplit_once('@') else {
        return text.to_owned();
    };
    match user.split_once(':') {
        Some((name, _)) => format!("{scheme}{name}:********@{host}"),
        None => format!("{scheme}********@{host}"),
    }
}

const DURATIONS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Reads `250ms`, `15s`, `1h30m`, `7d`; a number without a unit is refused, except 0.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str =
        "expected a duration with its unit, such as \"250ms\", \"15s\" or \"1h30m\" (units: ms s m h d w)";
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = 0u64;
    let mut last_factor = u64::MAX;
    if rest.is_empty() {
        return Err(EXPECTED.into());
    }
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let factor =
            DURATIONS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or(EXPECTED)?;
        // Units fall from left to right, each at most once: "30m1h" and "1s1s" are typing errors.
        if factor >= last_factor {
            return Err(EXPECTED.into());
        }
        last_factor = factor;
        let part = number
            .parse::<u64>()
            .map_err(|_| EXPECTED)?
            .checked_mul(factor)
            .ok_or("the duration is too long")?;
        total = total.checked_add(part).ok_or("the duration is too long")?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Reads `4096B`, `256KiB`, `1GB`; a number without a unit is refused, except 0.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size with its unit, such as \"256KiB\" or \"1GiB\" (units: B kB KiB MB MiB GB GiB TB TiB)";
    let text = text.trim();
    if text == "0" {
        return Ok(0);
    }
    let (number, unit) = split_number(text);
    let unit = unit.trim_start();
    let factor = SIZES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor)
        .ok_or(EXPECTED)?;
    let number: u64 = number.parse().map_err(|_| EXPECTED)?;
    number.checked_mul(factor).ok_or_else(|| "the size is too large".into())
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        for (text, millis) in [
            ("250ms", 250),
            ("15s", 15_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("1s500ms", 1_500),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "15",
            "soon",
            "s",
            "1.5s",
            "-1s",
            "30m1h",
            "1s1s",
            "15 s",
            "99999999999999999999s",
            "9999999999999999w",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_carry_their_unit_and_print_as_they_were_meant() {
        for (text, bytes, shown) in [
            ("256KiB", 262_144, "256KiB"),
            ("1GiB", 1 << 30, "1GiB"),
            ("1kB", 1_000, "1000B"),
            ("17B", 17, "17B"),
            ("1 MiB", 1 << 20, "1MiB"),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(ByteSize(bytes).to_string(), shown);
        }
        for text in ["", "12", "big", "1.5GiB", "-1B", "99999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_never_shows_its_password() {
        assert_eq!(redact_url("nats://amy:pa@ss@host:4222"), "nats://amy:********@host:4222");
        assert_eq!(redact_url("redis://:hunter2@host/0"), "redis://:********@host/0");
        assert_eq!(redact_url("nats://t0ken@host"), "nats://********@host");
        assert_eq!(redact_url("amy:pass@host"), "amy:********@host");
        assert_eq!(redact_url("nats://host:4222"), "nats://host:4222");
        let urls = NatsUrls::parse("nats://a:hunter2@one,two:4222").unwrap();
        assert!(!format!("{urls:?}").contains("hunter2"));
        assert_eq!(urls.0[1].expose(), "nats://two:4222");
        assert!(!format!("{:?}", Secret::parse("hunter2").unwrap()).contains("hunter2"));
    }

    #[test]
    fn a_url_of_another_protocol_is_refused() {
        assert!(NatsUrls::parse("http://host").unwrap_err().contains("nats://"));
        assert!(RedisUrl::parse("nats://host").is_err());
        assert!(RedisUrl::parse("rediss://host:6380").is_ok());
        assert!(NatsUrls::parse("").is_err());
    }
}
