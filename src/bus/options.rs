//! How to reach NATS, as told by flags, variables, a file and a context; and how those are laid over one another.
//!
//! Precedence: flag > variable > file > context > default. A layer that brings credentials of one kind (user, token,
//! creds, nkey, jwt) shuts out the kinds below it, so that two ways of logging in are never mixed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::context;
use super::error::Error;

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The value itself: for handing on, never for printing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Secret {
        Secret::new(value)
    }
}

/// Everything about reaching NATS that a user may set; `None` means not said.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NatsOptions {
    /// Servers, each `nats://`, `tls://` or `host:port`; user info in them counts as credentials.
    pub urls: Vec<String>,
    /// User; without a password it is taken for a token, as the `nats` CLI does.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Token.
    pub token: Option<Secret>,
    /// Credentials file.
    pub creds: Option<PathBuf>,
    /// NKey seed, or a file that holds it.
    pub nkey: Option<Secret>,
    /// User JWT, or a file that holds it.
    pub jwt: Option<Secret>,
    /// Seed that signs for the JWT, or a file that holds it.
    pub seed: Option<Secret>,
    /// Client certificate.
    pub tls_cert: Option<PathBuf>,
    /// Key of the client certificate.
    pub tls_key: Option<PathBuf>,
    /// Authority that vouches for the server.
    pub tls_ca: Option<PathBuf>,
    /// TLS before the server's first byte.
    pub tls_first: Option<bool>,
    /// JetStream domain.
    pub js_domain: Option<String>,
    /// JetStream API prefix; beats the domain.
    pub js_api_prefix: Option<String>,
    /// Prefix of reply subjects.
    pub inbox_prefix: Option<String>,
    /// Bound for connecting and for requests.
    pub timeout: Option<Duration>,
    /// Context of the `nats` CLI to start from; `None`: the selected one.
    pub context: Option<String>,
    /// Ignore contexts.
    pub no_context: bool,
}

/// Logins may stand in the URLs, a token in place of the user: neither is shown.
impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<String> = self.urls.iter().map(|url| split_user_info(url).0).collect();
        f.debug_struct("NatsOptions")
            .field("urls", &servers)
            .field("credentials", &self.credentials())
            .field("context", &self.context)
            .field("no_context", &self.no_context)
            .finish_non_exhaustive()
    }
}

impl NatsOptions {
    /// What the `NATS_*` variables say.
    pub fn from_env() -> Result<NatsOptions, Error> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// What variables say, looked up by `var`.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<NatsOptions, Error> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let secret = |name: &str| set(name).map(Secret::new);
        let path = |name: &str| set(name).map(|value| context::expand_home(&value));
        let timeout = match set("NATS_TIMEOUT") {
            None => None,
            Some(text) => Some(duration(&text).ok_or_else(|| {
                Error::config("NATS_TIMEOUT", format!("{text:?} is not a duration such as 5s or 500ms"))
            })?),
        };
        Ok(NatsOptions {
            urls: set("NATS_URL").map(|urls| split_urls(&urls)).unwrap_or_default(),
            user: set("NATS_USER"),
            password: secret("NATS_PASSWORD"),
            token: secret("NATS_TOKEN"),
            creds: path("NATS_CREDS"),
            nkey: secret("NATS_NKEY"),
            jwt: secret("NATS_JWT"),
            seed: secret("NATS_SEED"),
            tls_cert: path("NATS_CERT"),
            tls_key: path("NATS_KEY"),
            tls_ca: path("NATS_CA"),
            timeout,
            context: set("NATS_CONTEXT"),
            ..NatsOptions::default()
        })
    }

    /// Lays these over `lower`: what is said here stands, what is not comes from there.
    pub fn or(self, lower: NatsOptions) -> NatsOptions {
        let NatsOptions { mut user, mut password, mut token, mut creds, mut nkey, mut jwt, mut seed, .. } =
            self.clone();
        // User and password may come from different layers (a flag and a variable); other kinds shut each other out.
        if !self.logs_in() {
            (user, password, token) = (lower.user.clone(), lower.password.clone(), lower.token.clone());
            (creds, nkey) = (lower.creds.clone(), lower.nkey.clone());
            (jwt, seed) = (lower.jwt.clone(), lower.seed.clone());
        } else {
            if user.is_some() && password.is_none() || user.is_none() && password.is_some() {
                user = user.or(lower.user.clone());
                password = password.or(lower.password.clone());
            }
            if jwt.is_some() != seed.is_some() {
                jwt = jwt.or(lower.jwt.clone());
                seed = seed.or(lower.seed.clone());
            }
        }
        let own_pair = self.tls_cert.is_some() || self.tls_key.is_some();
        let (lower_cert, lower_key) = if own_pair { (None, None) } else { (lower.tls_cert, lower.tls_key) };
        let own_api = self.js_domain.is_some() || self.js_api_prefix.is_some();
        let (lower_domain, lower_prefix) =
            if own_api { (None, None) } else { (lower.js_domain, lower.js_api_prefix) };
        NatsOptions {
            urls: if self.urls.is_empty() { lower.urls } else { self.urls },
            user,
            password,
            token,
            creds,
            nkey,
            jwt,
            seed,
            tls_cert: self.tls_cert.or(lower_cert),
            tls_key: self.tls_key.or(lower_key),
            tls_ca: self.tls_ca.or(lower.tls_ca),
            tls_first: self.tls_first.or(lower.tls_first),
            js_domain: self.js_domain.or(lower_domain),
            js_api_prefix: self.js_api_prefix.or(lower_prefix),
            inbox_prefix: self.inbox_prefix.or(lower.inbox_prefix),
            timeout: self.timeout.or(lower.timeout),
            context: self.context.or(lower.context),
            no_context: self.no_context || lower.no_context,
        }
    }

    /// Lays these over the context they name (or the selected one), found in the user's configuration directory.
    pub fn with_context(self) -> Result<NatsOptions, Error> {
        match context::config_dir() {
            Some(dir) => self.with_context_in(&dir),
            None => Ok(self),
        }
    }

    /// Lays these over the context they name (or the selected one), found in `dir` (which holds `context.txt`).
    pub fn with_context_in(self, dir: &std::path::Path) -> Result<NatsOptions, Error> {
        if self.no_context {
            return Ok(self);
        }
        let named = self.context.clone();
        let Some(name) = named.or_else(|| context::selected(dir)) else { return Ok(self) };
        let mut lower = context::load(dir, &name)?;
        lower.context = Some(name);
        Ok(self.or(lower))
    }

    /// Servers to try, without credentials; the usual local one if none was said.
    pub fn servers(&self) -> Vec<String> {
        let urls = self.urls.iter().map(|url| split_user_info(url).0);
        if self.urls.is_empty() { vec!["nats://127.0.0.1:4222".to_owned()] } else { urls.collect() }
    }

    /// Bound for connecting and for requests: 5 s unless said otherwise.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(5))
    }

    /// The kind of credentials these bring, for messages.
    pub fn credentials(&self) -> &'static str {
        let in_url = self.urls.iter().any(|url| split_user_info(url).1.is_some());
        match self {
            _ if self.creds.is_some() => "creds file",
            _ if self.jwt.is_some() => "JWT",
            _ if self.nkey.is_some() => "nkey",
            _ if self.token.is_some() => "token",
            _ if self.user.is_some() && self.password.is_some() => "user and password",
            _ if self.user.is_some() => "token",
            _ if in_url => "user info of the URL",
            _ => "none given",
        }
    }

    fn logs_in(&self) -> bool {
        let NatsOptions { user, password, token, creds, nkey, jwt, seed, urls, .. } = self;
        let secrets = [password, token, nkey, jwt, seed].iter().any(|secret| secret.is_some());
        secrets
            || user.is_some()
            || creds.is_some()
            || urls.iter().any(|url| split_user_info(url).1.is_some())
    }
}

/// `a, b` → two URLs: async-nats does not split them.
pub fn split_urls(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

/// A URL without its user info, and the user info.
pub(super) fn split_user_info(url: &str) -> (String, Option<(String, Option<String>)>) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    match rest.rsplit_once('@') {
        None => (format!("{scheme}://{rest}"), None),
        Some((info, host)) => {
            let login = match info.split_once(':') {
                Some((user, password)) => (unescape(user), Some(unescape(password))),
                None => (unescape(info), None),
            };
            (format!("{scheme}://{host}"), Some(login))
        }
    }
}

/// `%40` → `@`.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let escaped = (byte == b'%').then(|| [ahead.next(), ahead.next()]).and_then(|pair| {
            let pair = [pair[0]?, pair[1]?];
            u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()
        });
        match escaped {
            Some(value) => {
                out.push(value);
                bytes = ahead;
            }
            None => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A Go duration: `5s`, `500ms`, `1m30s`.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &rest[unit..];
    }
    (!total.is_zero()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(urls: &[&str]) -> NatsOptions {
        NatsOptions { urls: urls.iter().map(|url| (*url).to_owned()).collect(), ..NatsOptions::default() }
    }

    #[test]
    fn a_higher_layer_wins_field_by_field_and_credentials_are_never_mixed() {
        let flag = NatsOptions { user: Some("flag".into()), ..options(&["flag:1"]) };
        let env =
            NatsOptions { password: Some("env".into()), token: Some("t".into()), ..options(&["env:1"]) };
        let context =
            NatsOptions { creds: Some("c".into()), js_domain: Some("hub".into()), ..options(&["ctx:1"]) };
        let all = flag.or(env).or(context);
        assert_eq!((all.urls.as_slice(), all.user.as_deref()), (&["flag:1".to_owned()][..], Some("flag")));
        assert_eq!(all.password, Some("env".into()));
        assert_eq!((all.token, all.creds), (None, None));
        assert_eq!(all.js_domain.as_deref(), Some("hub"));
    }

    #[test]
    fn variables_have_the_names_of_the_nats_cli() {
        let read = NatsOptions::from_vars(|name| match name {
            "NATS_URL" => Some("a:1, tls://b:2".into()),
            "NATS_CREDS" => Some("/c".into()),
            "NATS_TIMEOUT" => Some("1m30s".into()),
            _ => None,
        });
        let read = read.unwrap();
        assert_eq!(read.urls, ["a:1", "tls://b:2"]);
        assert_eq!(read.timeout, Some(Duration::from_secs(90)));
        let refused = NatsOptions::from_vars(|name| (name == "NATS_TIMEOUT").then(|| "soon".to_owned()));
        assert!(refused.unwrap_err().to_string().starts_with("NATS_TIMEOUT: \"soon\""));
    }

    #[test]
    fn secrets_are_neither_printed_nor_left_in_server_names() {
        let options =
            NatsOptions { password: Some("hunter2".into()), ..options(&["nats://u:p%40ss@h:4222"]) };
        assert!(!format!("{:?}", options.password).contains("hunter2"));
        assert_eq!(options.servers(), ["nats://h:4222"]);
        let login = split_user_info("nats://u:p%40ss@h:4222").1;
        assert_eq!(login, Some(("u".into(), Some("p@ss".into()))));
    }
}
