//! Servers and secrets: what no log and no `config show` may print.

use std::fmt;

use super::value::{Kind, Setting};

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

#[cfg(test)]
mod tests {
    use super::*;

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
