//! `docs/cli.md`: every command's help, made from the commands themselves, below a written introduction.

use clap::{Command, CommandFactory};

use super::args::Cli;
use super::failure::EXIT_CODES;

const INTRODUCTION: &str = include_str!("reference.md");

/// The whole page.
pub fn markdown() -> String {
    let mut page = INTRODUCTION.replace("{exit codes}", EXIT_CODES);
    let mut root = Cli::command().term_width(100);
    page.push_str("\n## The commands\n");
    // Not built: a built command repeats the global options of its parents.
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        append(&mut page, "selvedge", command.clone());
    }
    page.push_str("\n## Options of every command\n\n");
    root.build();
    page.push_str(&block(&globals(&root)));
    page
}

fn append(page: &mut String, parent: &str, command: Command) {
    let name = format!("{parent} {}", command.get_name());
    let children: Vec<Command> = command.get_subcommands().cloned().collect();
    // The page must not depend on who makes it where.
    let help = command
        .mut_args(|arg| arg.hide_env_values(true))
        .bin_name(&name)
        .term_width(100)
        .render_long_help()
        .to_string();
    page.push_str(&format!("\n### {name}\n\n{}", block(&help)));
    for child in children {
        append(page, &name, child);
    }
}

/// The sections of the root's help that hold options.
fn globals(root: &Command) -> String {
    let help = root.clone().render_help().to_string();
    let from = help.find("\nGlobal options:").map_or(0, |at| at + 1);
    let to = help.find("\nExit codes:").unwrap_or(help.len());
    help.get(from..to).unwrap_or_default().to_owned()
}

fn block(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    format!("```text\n{}\n```\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_the_command_line_is_its_help() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
        if std::env::var_os("SELVEDGE_UPDATE_DOCS").is_some() {
            std::fs::write(&path, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(page == markdown(), "docs/cli.md is out of date: run `just docs-config`");
    }
}
