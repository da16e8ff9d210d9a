//! Headings of Markdown, by the rules in [`super::super`].

use super::super::card::{Heading, MAX_TEXT_BYTES, clip};
use super::scan::lines;

/// All headings in order.
pub fn headings(source: &[u8]) -> Vec<Heading> {
    let all: Vec<&[u8]> = lines(source).map(|(_, line)| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    let mut found = Vec::new();
    let mut fence: Option<(u8, usize)> = None;
    let mut plain: Option<&[u8]> = None;
    for (index, line) in all.iter().enumerate().skip(front_matter(&all)) {
        let before = plain.take();
        let (indent, body) = split_indent(line);
        if let Some(open) = fence {
            if indent <= 3 && closes(body, open) {
                fence = None;
            }
            continue;
        }
        if indent > 3 || body.is_empty() {
            continue;
        }
        fence = opens(body);
        if fence.is_some() {
            continue;
        }
        let (level, text, number) = if let Some((level, text)) = atx(body) {
            (level, text, index + 1)
        } else if let (Some(text), Some(level)) = (before, underline(body)) {
            (level, text, index)
        } else {
            plain = is_plain(body).then_some(body);
            continue;
        };
        let text = String::from_utf8_lossy(text);
        found.push(Heading {
            level,
            line: number as u32,
            text: clip(text.trim(), MAX_TEXT_BYTES).to_owned(),
        });
    }
    found
}

/// How many lines the front matter takes.
fn front_matter(all: &[&[u8]]) -> usize {
    if all.first().is_none_or(|line| trim_end(line) != b"---") {
        return 0;
    }
    let end = all.iter().skip(1).position(|line| matches!(trim_end(line), b"---" | b"..."));
    end.map_or(0, |found| found + 2)
}

fn trim_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |last| last + 1);
    &line[..end]
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// The number of leading spaces (a tab counts as too many) and the rest, trailing blanks cut.
fn split_indent(line: &[u8]) -> (usize, &[u8]) {
    let line = trim_end(line);
    let spaces = run(line, b' ');
    match line.get(spaces) {
        Some(b'\t') => (4, &line[spaces..]),
        _ => (spaces, &line[spaces..]),
    }
}

fn run(body: &[u8], wanted: u8) -> usize {
    body.iter().take_while(|byte| **byte == wanted).count()
}

fn opens(body: &[u8]) -> Option<(u8, usize)> {
    let mark = *body.first()?;
    let length = run(body, mark);
    let allowed = match mark {
        b'`' => !body[length..].contains(&b'`'),
        b'~' => true,
        _ => false,
    };
    (allowed && length >= 3).then_some((mark, length))
}

fn closes(body: &[u8], (mark, length): (u8, usize)) -> bool {
    let run = run(body, mark);
    run >= length && run == body.len()
}

fn atx(body: &[u8]) -> Option<(u8, &[u8])> {
    let level = run(body, b'#');
    if !(1..=6).contains(&level) || body.get(level).is_some_and(|byte| !is_blank(*byte)) {
        return None;
    }
    let text = &body[level..];
    // A closing run of `#` is decoration if a blank stands before it.
    let cut = text.len() - text.iter().rev().take_while(|byte| **byte == b'#').count();
    let decorated = cut == 0 || text.get(cut - 1).is_some_and(|byte| is_blank(*byte));
    Some((level as u8, if decorated { &text[..cut] } else { text }))
}

fn underline(body: &[u8]) -> Option<u8> {
    match body[0] {
        b'=' if run(body, b'=') == body.len() => Some(1),
        b'-' if run(body, b'-') == body.len() => Some(2),
        _ => None,
    }
}

/// Whether a heading's underline may follow; `body` is neither fence nor heading.
fn is_plain(body: &[u8]) -> bool {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let marker = match body[0] {
        b'>' | b'|' | b'<' => return false,
        b'-' | b'*' | b'+' => 1,
        _ if digits > 0 && matches!(body.get(digits), Some(b'.' | b')')) => digits + 1,
        _ => 0,
    };
    let list_item = marker > 0 && body.get(marker).is_none_or(|byte| is_blank(*byte));
    let ruler = body.iter().all(|byte| matches!(byte, b'*' | b'_' | b'-' | b'=' | b' ' | b'\t'));
    !list_item && !ruler
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<(u8, u32, String)> {
        headings(source.as_bytes()).into_iter().map(|h| (h.level, h.line, h.text)).collect()
    }

    #[test]
    fn atx_and_setext_headings_are_found_with_level_and_line() {
        assert_eq!(
            texts("# One #\n\nTwo\r\n---\r\nThree\n===\n###### Six\n####### seven\n#no"),
            [(1, 1, "One".into()), (2, 3, "Two".into()), (1, 5, "Three".into()), (6, 7, "Six".into())]
        );
    }

    #[test]
    fn nothing_inside_a_fence_or_front_matter_is_a_heading() {
        let source = "---\ntitle: x\n---\n```sh\n# comment\n~~~\n```\n~~~~\n# in\n~~~\n# in\n~~~~\n# out";
        assert_eq!(texts(source), [(1, 13, "out".into())]);
    }

    #[test]
    fn rulers_tables_lists_and_indented_code_are_not_headings() {
        assert!(texts("a\n\n---\n- x\n---\n| a |\n---\n    # code\n> q\n---\n***\n---\n").is_empty());
    }
}
