//! The digest as a page of Markdown.
//!
//! Owns the wording and the escaping: paths, headings and words come from files that anybody may have
//! written, so nothing of them may become markup, a control sequence of a terminal or an invisible
//! character. Never decides what is in the digest.

use std::fmt::Write;

use super::card::{Counts, SymbolKind};
use super::digest::{Digest, RankedFile};

/// The whole page, for the directory called `name`.
pub fn render(digest: &Digest, name: &str) -> String {
    let mut page = String::new();
    write(digest, name, &mut page).expect("writing to a String cannot fail");
    page
}

fn write(digest: &Digest, name: &str, page: &mut String) -> std::fmt::Result {
    writeln!(page, "# What is in {}\n", code(name))?;
    writeln!(page, "{}\n", summary(digest))?;
    for note in &digest.notes {
        writeln!(page, "> {}\n", text(note))?;
    }
    totals(digest, page)?;
    top_files(digest, page)?;
    keywords(digest, page)?;
    references(digest, page)?;
    omissions(digest, page)
}

fn summary(digest: &Digest) -> String {
    let Counts { bytes, lines, words, headings, .. } = &digest.totals;
    let mut kinds: Vec<(&SymbolKind, &u64)> = digest.totals.symbols.iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut symbols: Vec<String> = kinds
        .into_iter()
        .map(|(kind, count)| {
            let noun = if *count == 1 { kind.singular() } else { kind.plural() };
            format!("{} {noun}", number(*count))
        })
        .collect();
    if symbols.is_empty() {
        symbols.push("no symbols".to_owned());
    }
    [
        plural(digest.files, "file"),
        plural(*bytes, "byte"),
        plural(*lines, "line"),
        plural(*words, "word"),
        plural(*headings, "heading"),
    ]
    .join(", ")
        + "; "
        + &symbols.join(", ")
        + "."
}

fn totals(digest: &Digest, page: &mut String) -> std::fmt::Result {
    page.push_str("## Totals\n\n| kind | files | bytes | lines | words | headings | symbols |\n");
    page.push_str("|---|--:|--:|--:|--:|--:|--:|\n");
    let mut row = |label: &str, files: u64, counts: &Counts| {
        let cells = [files, counts.bytes, counts.lines, counts.words, counts.headings]
            .into_iter()
            .chain([counts.symbol_total()])
            .map(number)
            .collect::<Vec<_>>();
        writeln!(page, "| {label} | {} |", cells.join(" | "))
    };
    let mut kinds: Vec<_> = digest.kinds.iter().collect();
    kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.counts.lines));
    for (kind, totals) in kinds {
        row(kind.label(), totals.files, &totals.counts)?;
    }
    row("**all**", digest.files, &digest.totals)?;
    writeln!(page)
}

fn top_files(digest: &Digest, page: &mut String) -> std::fmt::Result {
    if digest.ranked.is_empty() {
        return Ok(());
    }
    page.push_str("## Files to read first\n\n");
    for (place, file) in digest.ranked.iter().enumerate() {
        write!(page, "{}. {}", place + 1, code(&file.path))?;
        if let Some(title) = file.title.as_deref().filter(|title| !title.is_empty()) {
            write!(page, " ({})", text(title))?;
        }
        writeln!(page, ": {}", why(file))?;
    }
    writeln!(page)
}

fn why(file: &RankedFile) -> String {
    let mut reasons = Vec::new();
    if file.mentioned_by > 0 {
        let some: Vec<String> = file.mentioners.iter().map(|path| code(path)).collect();
        let more = if file.mentioned_by as usize > some.len() { ", …" } else { "" };
        reasons.push(format!(
            "mentioned by {} ({}{more})",
            plural(file.mentioned_by, "file"),
            some.join(", ")
        ));
    }
    if !file.keywords.is_empty() {
        let words: Vec<String> = file.keywords.iter().map(|word| text(word)).collect();
        reasons.push(format!("about {}", words.join(", ")));
    }
    reasons.push(plural(file.lines, "line"));
    if file.symbols > 0 {
        reasons.push(plural(file.symbols, "symbol"));
    }
    reasons.join("; ")
}

fn keywords(digest: &Digest, page: &mut String) -> std::fmt::Result {
    if digest.keywords.is_empty() {
        return Ok(());
    }
    page.push_str("## Keywords\n\n| keyword | weight | files | most in |\n|---|--:|--:|---|\n");
    for keyword in &digest.keywords {
        let top: Vec<String> = keyword.top.iter().map(|path| cell(path)).collect();
        writeln!(
            page,
            "| {} | {:.1} | {} | {} |",
            text(&keyword.word),
            keyword.weight,
            number(keyword.files),
            top.join(", ")
        )?;
    }
    writeln!(page)
}

fn references(digest: &Digest, page: &mut String) -> std::fmt::Result {
    if digest.references.is_empty() {
        return Ok(());
    }
    let pairs = digest.reference_pairs;
    let shown = digest.references.len() as u64;
    page.push_str("## Cross-references\n\n");
    if shown < pairs {
        writeln!(page, "The strongest {shown} of {}.\n", number(pairs))?;
    }
    for reference in &digest.references {
        let via: Vec<String> = reference.via.iter().map(|word| code(word)).collect();
        writeln!(
            page,
            "- {} → {}: {} ({})",
            code(&reference.from),
            code(&reference.to),
            plural(reference.mentions, "mention"),
            via.join(", ")
        )?;
    }
    writeln!(page)
}

fn omissions(digest: &Digest, page: &mut String) -> std::fmt::Result {
    let omissions = &digest.omissions;
    if omissions.counts.is_empty() {
        return Ok(());
    }
    page.push_str("## Left out\n\n");
    for (reason, count) in &omissions.counts {
        writeln!(page, "- {}: {}", reason.label(), number(*count))?;
    }
    if !omissions.listed.is_empty() {
        page.push_str("\nAmong them:\n\n");
    }
    for skipped in &omissions.listed {
        writeln!(page, "- {}: {}", code(&skipped.path), skipped.reason.label())?;
    }
    Ok(())
}

fn plural(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", number(count), if count == 1 { "" } else { "s" })
}

/// `12345` as `12,345`.
fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Foreign text as plain words.
fn text(foreign: &str) -> String {
    let mut out = String::new();
    for c in visible(foreign).chars() {
        let starts_a_block = out.is_empty() && c.is_ascii_punctuation();
        if starts_a_block || "\\`*_[]()<>|~!&#$@".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Foreign text as inline code in a cell of a table, where `|` ends the cell even in code.
fn cell(foreign: &str) -> String {
    code(foreign).replace('|', "\\|")
}

/// Foreign text as inline code.
fn code(foreign: &str) -> String {
    let foreign = visible(foreign);
    let longest = foreign.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // Blanks keep a backtick or blank at the edge, and stand for an empty name.
    let edge = |c: char| c == '`' || c == ' ';
    let pad =
        if foreign.is_empty() || foreign.starts_with(edge) || foreign.ends_with(edge) { " " } else { "" };
    format!("{fence}{pad}{foreign}{pad}{fence}")
}

/// Shows what would not be seen: control characters and those that turn or hide text.
fn visible(foreign: &str) -> String {
    let mut out = String::new();
    for c in foreign.chars() {
        let hidden = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        if c.is_control() || hidden {
            // Writing to a String cannot fail.
            let _ = write!(out, "<U+{:04X}>", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
#[path = "markdown_test.rs"]
mod tests;
