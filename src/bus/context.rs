//! Contexts of the `nats` command line tool, as connection options.
//!
//! Reads `context.txt` (the selected name) and `context/<name>.json` below `$XDG_CONFIG_HOME/nats` or
//! `~/.config/nats`. Never writes there. A key that changes how a server is reached and that we cannot honour is
//! refused by name; one that only decorates is passed over.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::options::{NatsOptions, Secret, split_urls};

/// Keys that change how the server is reached and that we do not have.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("nsc", "export a creds file with `nsc generate creds` and set `creds` instead"),
    ("socks_proxy", "connect directly, or through a local forward"),
    ("windows_cert_store", "set `cert` and `key` to PEM files instead"),
    ("windows_cert_match", "set `cert` and `key` to PEM files instead"),
    ("windows_cert_match_by", "set `cert` and `key` to PEM files instead"),
];

/// Keys that have no bearing on what Selvedge does.
const DECORATION: [&str; 4] =
    ["description", "color_scheme", "jetstream_event_prefix", "windows_ca_certs_match"];

/// `$XDG_CONFIG_HOME/nats`, else `~/.config/nats`.
pub fn config_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(config.join("nats"))
}

/// The selected context, if there is one.
pub fn selected(dir: &Path) -> Option<String> {
    let name = std::fs::read_to_string(dir.join("context.txt")).ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Reads one context.
pub fn load(dir: &Path, name: &str) -> Result<NatsOptions, Error> {
    let origin = || format!("NATS context {name:?}");
    if name.is_empty() || name.contains(['/', '\\']) || name.contains("..") {
        return Err(Error::config(origin(), "not a context name"));
    }
    let file = dir.join("context").join(format!("{name}.json"));
    let text = std::fs::read(&file).map_err(|error| {
        Error::config(origin(), format!("cannot read {}: {error} (see `nats context ls`)", file.display()))
    })?;
    let value: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text)
        .map_err(|error| Error::config(origin(), format!("{} is no context: {error}", file.display())))?;

    let mut options = NatsOptions::default();
    for (key, value) in value {
        if key == "tls_first" {
            options.tls_first = value.as_bool().filter(|first| *first);
            continue;
        }
        let empty = value.is_null() || value.as_str() == Some("") || value.as_bool() == Some(false);
        if empty || value.as_array().is_some_and(Vec::is_empty) || DECORATION.contains(&key.as_str()) {
            continue;
        }
        if let Some((_, instead)) = UNSUPPORTED.iter().find(|(unsupported, _)| *unsupported == key) {
            return Err(Error::config(
                origin(),
                format!("uses {key:?}, which Selvedge does not support: {instead}"),
            ));
        }
        let Some(text) = value.as_str().map(str::to_owned) else {
            return Err(Error::config(origin(), format!("{key:?} is not a string")));
        };
        let path = || Some(expand_home(&text));
        match key.as_str() {
            "url" => options.urls = split_urls(&text),
            "user" => options.user = Some(text),
            "password" => options.password = Some(Secret::new(text)),
            "token" => options.token = Some(Secret::new(text)),
            "creds" => options.creds = path(),
            "nkey" => options.nkey = Some(Secret::new(text)),
            "user_jwt" => options.jwt = Some(Secret::new(text)),
            "user_seed" => options.seed = Some(Secret::new(text)),
            "cert" => options.tls_cert = path(),
            "key" => options.tls_key = path(),
            "ca" => options.tls_ca = path(),
            "jetstream_domain" => options.js_domain = Some(text),
            "jetstream_api_prefix" => options.js_api_prefix = Some(text),
            "inbox_prefix" => options.inbox_prefix = Some(text),
            unknown => {
                tracing::warn!(context = name, key = unknown, "unknown key in the NATS context, not used");
            }
        }
    }
    Ok(options)
}

/// `~/x` → `$HOME/x`.
pub fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(json: &str) -> Result<NatsOptions, Error> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        std::fs::write(dir.path().join("context/prod.json"), json).unwrap();
        std::fs::write(dir.path().join("context.txt"), "prod\n").unwrap();
        NatsOptions::default().with_context_in(dir.path())
    }

    #[test]
    fn the_selected_context_is_the_lowest_layer() {
        let options = with(
            r#"{"description":"x","url":"nats://a:1,nats://b:2","user":"u","password":"p","nsc":"","tls_first":true,
                "jetstream_domain":"hub","inbox_prefix":"_I","socks_proxy":"","color_scheme":"red"}"#,
        )
        .unwrap();
        assert_eq!(options.urls.len(), 2);
        assert_eq!((options.user.as_deref(), options.tls_first), (Some("u"), Some(true)));
        assert_eq!(
            (options.js_domain.as_deref(), options.inbox_prefix.as_deref()),
            (Some("hub"), Some("_I"))
        );
        assert_eq!(options.context.as_deref(), Some("prod"));
    }

    #[test]
    fn keys_we_cannot_honour_are_refused_by_name() {
        let error = with(r#"{"url":"a","nsc":"nsc://op/acc/user"}"#).unwrap_err().to_string();
        assert!(
            error.contains("\"prod\"") && error.contains("\"nsc\"") && error.contains("nsc generate creds")
        );
        let error = with(r#"{"socks_proxy":"socks5://x"}"#).unwrap_err().to_string();
        assert!(error.contains("socks_proxy"));
        let error = with("{").unwrap_err().to_string();
        assert!(error.contains("prod.json"));
    }

    #[test]
    fn a_missing_context_names_the_file_and_how_to_list_them() {
        let dir = tempfile::tempdir().unwrap();
        let options = NatsOptions { context: Some("nope".into()), ..NatsOptions::default() };
        let error = options.with_context_in(dir.path()).unwrap_err().to_string();
        assert!(error.contains("nope.json") && error.contains("nats context ls"));
    }
}
