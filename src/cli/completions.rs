//! `selvedge completions SHELL`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::args::Cli;
use super::context::Ctx;
use super::failure::Exit;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge completions bash > ~/.local/share/bash-completion/completions/selvedge
  selvedge completions zsh  > \"${fpath[1]}/_selvedge\"
  selvedge completions fish > ~/.config/fish/completions/selvedge.fish")]
pub struct CompletionsArgs {
    /// The shell to complete in
    pub shell: Shell,
}

/// Runs it.
pub async fn run(args: CompletionsArgs, ctx: Ctx) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "selvedge", &mut script);
    ctx.output.raw(String::from_utf8(script)?)?;
    Ok(Exit::Ok.into())
}
