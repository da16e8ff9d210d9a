//! What a running stack says about itself: the first screen, a line of JSON, a file, a NATS context.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use owo_colors::OwoColorize;
use serde::Serialize;

use super::own_name;
use crate::bus::context;
use crate::cli::stack::{Endpoint, Member, Stack};

/// The name of the NATS context `--write-nats-context` saves.
pub const CONTEXT: &str = "selvedge-dev";

/// Everything a script may want to know.
#[derive(Debug, Serialize)]
pub struct Endpoints {
    version: &'static str,
    pid: u32,
    nats_url: String,
    redis_url: Option<String>,
    admin_url: Option<String>,
    /// Where data and logs are.
    data: PathBuf,
    processes: Vec<Member>,
    #[serde(skip)]
    shown: [(&'static str, Option<Endpoint>); 3],
    #[serde(skip)]
    ephemeral: bool,
}

impl Endpoints {
    /// Of this stack, now.
    pub fn of(stack: &Stack) -> Endpoints {
        Endpoints {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            nats_url: stack.nats.url.clone(),
            redis_url: stack.redis.as_ref().map(|redis| redis.url.clone()),
            admin_url: stack.admin.as_ref().map(|admin| admin.url.clone()),
            data: stack.data().path().to_owned(),
            processes: stack.members(),
            shown: [
                ("NATS", Some(stack.nats.clone())),
                ("Redis", stack.redis.clone()),
                ("Admin", stack.admin.clone()),
            ],
            ephemeral: stack.data().is_ephemeral(),
        }
    }

    /// Writes them for scripts: all of it or nothing.
    pub fn write(&self, file: &Path) -> Result<()> {
        write_whole(file, &serde_json::to_vec(self)?)
    }

    /// The first screen.
    pub fn screen(&self, context_written: bool) -> String {
        let data = match self.ephemeral {
            true => format!("{}, removed at the end", self.data.display()),
            false => format!("{}, in use by pid {}", self.data.display(), self.pid),
        };
        let head = format!("{} {}", "selvedge".bold(), self.version);
        let mut page = format!("{head}  dev mode {}\n\n", format!("(data: {data})").dimmed());
        for (label, endpoint) in &self.shown {
            let Some(endpoint) = endpoint else {
                page += &format!("  {label:<11} {}\n", "of the coordinator that runs there already".dimmed());
                continue;
            };
            let url = format!("{:<30}", endpoint.url);
            page += &format!("  {label:<11} {} {}\n", url.cyan(), endpoint.server.dimmed());
        }
        page += "\n";
        let or = match context_written {
            true => format!("     # or: nats --context {CONTEXT}"),
            false => String::new(),
        };
        page += &format!("  {}{}\n", format!("export NATS_URL={}", self.nats_url).bold(), or.dimmed());
        let usual = "redis://127.0.0.1:6379";
        if let Some(redis) = self.shown[1].1.as_ref().filter(|redis| redis.ours && redis.url != usual) {
            page += &format!("  {}\n", format!("export REDIS_URL={}", redis.url).bold());
        }
        let own = own_name();
        let next = [
            (format!("{own} demo"), "# real agents digest a directory"),
            ("python3 examples/worker.py".to_owned(), "# an agent of your own; then, in another terminal:"),
            (format!("{own} submit shout '\"hello\"' --wait"), ""),
        ];
        let width = next.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
        for (at, (command, about)) in next.iter().enumerate() {
            let label = if at == 0 { "Next" } else { "" };
            page += format!("  {label:<11} {command:<width$}  {}", about.dimmed()).trim_end();
            page += "\n";
        }
        page + &format!("  {}\n", "Ctrl-C stops everything.".dimmed())
    }

    /// The same in one line, for when a command has the screen.
    pub fn line(&self) -> String {
        let redis = self.redis_url.as_deref().unwrap_or("-");
        format!("{} {}  NATS {}  Redis {redis}", "selvedge".bold(), self.version, self.nats_url)
    }
}

/// Saves a context for the `nats` command line tool; never selects it.
pub fn write_nats_context(url: &str) -> Result<PathBuf> {
    let dir = context::config_dir().context("neither XDG_CONFIG_HOME nor HOME is set")?.join("context");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = dir.join(format!("{CONTEXT}.json"));
    let text = serde_json::json!({ "description": "selvedge dev", "url": url });
    write_whole(&file, &serde_json::to_vec_pretty(&text)?)?;
    Ok(file)
}

/// Replaces a file at once: a reader sees the old text or the new.
pub fn write_whole(file: &Path, text: &[u8]) -> Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    written.with_context(|| format!("cannot write {}", file.display()))
}
