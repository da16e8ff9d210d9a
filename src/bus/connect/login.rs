//! Who we are to the server: by the first of credentials, JWT, nkey, token, user and URL that is given.

use std::path::PathBuf;
use std::sync::Arc;

use async_nats::ConnectOptions;

use crate::bus::{
    context::expand_home,
    error::Error,
    options::{NatsOptions, Secret, split_user_info},
};

/// Adds it to what is being built.
pub(super) async fn log_in(built: ConnectOptions, options: &NatsOptions) -> Result<ConnectOptions, Error> {
    if let Some(file) = &options.creds {
        let file = readable("the credentials file", file)?;
        let at = file.display().to_string();
        return built.credentials_file(file).await.map_err(|error| Error::config(at, error.to_string()));
    }
    if let Some(jwt) = &options.jwt {
        let jwt = inline_or_file(jwt, "eyJ")
            .ok_or_else(|| Error::config("JWT", "neither a JWT nor a file with one"))?;
        let seed = options
            .seed
            .as_ref()
            .ok_or_else(|| Error::config("JWT", "needs the seed to sign with (NATS_SEED)"))?;
        let seed = inline_or_file(seed, "SU")
            .ok_or_else(|| Error::config("seed", "neither a seed nor a file with one"))?;
        let keys =
            nkeys::KeyPair::from_seed(&seed).map_err(|error| Error::config("seed", error.to_string()))?;
        let keys = Arc::new(keys);
        return Ok(built.jwt(jwt, move |nonce| {
            let keys = Arc::clone(&keys);
            async move { keys.sign(&nonce).map_err(async_nats::AuthError::new) }
        }));
    }
    if let Some(nkey) = &options.nkey {
        let seed = inline_or_file(nkey, "SU")
            .ok_or_else(|| Error::config("nkey", "neither a seed nor a file with one"))?;
        nkeys::KeyPair::from_seed(&seed).map_err(|error| Error::config("nkey", error.to_string()))?;
        return Ok(built.nkey(seed));
    }
    if let Some(token) = &options.token {
        return Ok(built.token(token.expose().to_owned()));
    }
    let in_url = options.urls.iter().find_map(|url| split_user_info(url).1);
    Ok(match (&options.user, &options.password, in_url) {
        (Some(user), Some(password), _) => {
            built.user_and_password(user.clone(), password.expose().to_owned())
        }
        (Some(token), None, _) => built.token(token.clone()),
        (None, _, Some((user, Some(password)))) => built.user_and_password(user, password),
        (None, _, Some((token, None))) => built.token(token),
        (None, _, None) => built,
    })
}

/// The secret itself if it begins as one does, else the first line of that kind in the file it names.
fn inline_or_file(secret: &Secret, begins: &str) -> Option<String> {
    let value = secret.expose().trim();
    if value.starts_with(begins) {
        return Some(value.to_owned());
    }
    let text = std::fs::read_to_string(expand_home(value)).ok()?;
    text.lines().map(str::trim).find(|line| line.starts_with(begins)).map(str::to_owned)
}

/// The file, if it can be opened.
pub(super) fn readable(what: &str, file: &PathBuf) -> Result<PathBuf, Error> {
    match std::fs::File::open(file) {
        Ok(_) => Ok(file.clone()),
        Err(error) => Err(Error::config(what, format!("cannot read {}: {error}", file.display()))),
    }
}
