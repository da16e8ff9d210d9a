//! Symbols of code, found in masked source by the rules in [`super::super`].

use super::super::card::{FileKind, Symbol, SymbolKind};
use super::mask::mask;
use super::scan::{Cursor, is_name_byte, lines};
use super::{LineNumbers, symbol};

/// How much of an `impl` header is shown at most.
const MAX_HEADER: usize = 160;

/// All symbols in order of appearance; none for a kind that is not code.
pub fn symbols(source: &[u8], kind: FileKind) -> Vec<Symbol> {
    let code = mask(source, kind);
    let mut found = match kind {
        FileKind::Rust => rust(&code),
        FileKind::Python => per_line(&code, python),
        FileKind::JavaScript | FileKind::TypeScript => {
            let mut found = script(&code);
            found.extend(per_line(&code, exported));
            if kind == FileKind::TypeScript {
                found.extend(per_line(&code, typed));
            }
            found
        }
        FileKind::Go => per_line(&code, go),
        FileKind::Shell => per_line(&code, shell),
        _ => Vec::new(),
    };
    found.sort_by_key(|(offset, ..)| *offset);
    let mut numbers = LineNumbers::new(source);
    found.into_iter().map(|(at, kind, name)| symbol(kind, &name, numbers.of(at))).collect()
}

/// Offset, kind, name.
type Found = (usize, SymbolKind, Vec<u8>);
/// What a line defines, if anything.
type LineRule = fn(&[u8]) -> Option<(SymbolKind, &[u8])>;

/// Asks `rule` for each line what it defines.
fn per_line(code: &[u8], rule: LineRule) -> Vec<Found> {
    lines(code).filter_map(|(at, line)| rule(line).map(|(kind, name)| (at, kind, name.to_owned()))).collect()
}

fn rust(code: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut cursor = Cursor::new(code, 0);
    while let Some((start, word)) = cursor.next_name() {
        let kind = match word {
            b"fn" => SymbolKind::Function,
            b"struct" => SymbolKind::Struct,
            b"enum" => SymbolKind::Enum,
            b"trait" => SymbolKind::Trait,
            b"mod" => SymbolKind::Module,
            b"macro_rules" => SymbolKind::Macro,
            _ => continue,
        };
        let mut ahead = cursor;
        let bang = ahead.pass(b'!');
        let spaces = ahead.spaces();
        let apart = if kind == SymbolKind::Macro { bang } else { !bang && spaces > 0 };
        let mut raw = ahead;
        let starts_name = |byte: u8| is_name_byte(byte) && !byte.is_ascii_digit();
        if raw.pass(b'r') && raw.pass(b'#') && raw.peek().is_some_and(starts_name) {
            ahead = raw;
        }
        if apart && let Some(name) = ahead.name() {
            found.push((start, kind, name.to_owned()));
        }
    }
    for (at, line) in lines(code) {
        let mut cursor = Cursor::new(line, 0);
        cursor.blanks();
        let mut word = cursor.name();
        if word == Some(b"unsafe") && cursor.blanks() > 0 {
            word = cursor.name();
        }
        if word == Some(b"impl") {
            found.push((at, SymbolKind::Impl, header(&code[at + cursor.at..])));
        }
    }
    found
}

/// What follows `impl`, up to the body, in one line.
fn header(rest: &[u8]) -> Vec<u8> {
    let rest = &rest[..rest.len().min(MAX_HEADER)];
    let end = rest.iter().position(|byte| matches!(byte, b'{' | b';')).unwrap_or(rest.len());
    let words: Vec<&[u8]> =
        rest[..end].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let end = words.iter().position(|word| *word == b"where").unwrap_or(words.len());
    words[..end].join(&b' ')
}

fn python(line: &[u8]) -> Option<(SymbolKind, &[u8])> {
    let mut cursor = Cursor::new(line, 0);
    cursor.run(|byte| matches!(byte, b' ' | b'\t' | 0x0c));
    let mut word = cursor.name()?;
    if word == b"async" && cursor.blanks() > 0 {
        word = cursor.name()?;
        if word != b"def" {
            return None;
        }
    }
    let kind = match word {
        b"def" => SymbolKind::Function,
        b"class" => SymbolKind::Class,
        _ => return None,
    };
    if cursor.blanks() == 0 { None } else { cursor.name().map(|name| (kind, name)) }
}

fn script(code: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut cursor = Cursor::new(code, 0);
    cursor.dollar = true;
    while let Some((start, word)) = cursor.next_name() {
        if start > 0 && code[start - 1] == b'.' {
            continue;
        }
        let mut ahead = cursor;
        let spaces = ahead.spaces();
        let (kind, apart) = match word {
            b"function" => {
                let star = ahead.pass(b'*');
                if star {
                    ahead.spaces();
                }
                (SymbolKind::Function, star || spaces > 0)
            }
            b"class" => (SymbolKind::Class, spaces > 0),
            _ => continue,
        };
        let anonymous: [&[u8]; 2] = [b"extends", b"implements"];
        if apart
            && let Some(name) = ahead.name()
            && !(kind == SymbolKind::Class && anonymous.contains(&name))
        {
            found.push((start, kind, name.to_owned()));
        }
    }
    found
}

/// `export const NAME`
fn exported(line: &[u8]) -> Option<(SymbolKind, &[u8])> {
    let mut cursor = Cursor::new(line, 0);
    cursor.dollar = true;
    cursor.blanks();
    if cursor.name()? != b"export" || cursor.blanks() == 0 {
        return None;
    }
    if !matches!(cursor.name()?, b"const" | b"let" | b"var") || cursor.blanks() == 0 {
        return None;
    }
    cursor.name().filter(|name| *name != b"enum").map(|name| (SymbolKind::Constant, name))
}

/// `interface NAME`, `enum NAME`, `type NAME =`
fn typed(line: &[u8]) -> Option<(SymbolKind, &[u8])> {
    let mut cursor = Cursor::new(line, 0);
    cursor.dollar = true;
    cursor.blanks();
    let mut word = cursor.name()?;
    while matches!(word, b"export" | b"declare" | b"const") {
        if cursor.blanks() == 0 {
            return None;
        }
        word = cursor.name()?;
    }
    let kind = match word {
        b"interface" => SymbolKind::Interface,
        b"enum" => SymbolKind::Enum,
        b"type" => SymbolKind::Type,
        _ => return None,
    };
    if cursor.blanks() == 0 {
        return None;
    }
    let name = cursor.name()?;
    cursor.blanks();
    let complete = kind != SymbolKind::Type || matches!(cursor.peek(), Some(b'=' | b'<'));
    complete.then_some((kind, name))
}

fn go(line: &[u8]) -> Option<(SymbolKind, &[u8])> {
    let mut cursor = Cursor::new(line, 0);
    let kind = match cursor.name()? {
        b"func" => SymbolKind::Function,
        b"type" => SymbolKind::Type,
        _ => return None,
    };
    let blanks = cursor.blanks();
    if kind == SymbolKind::Function && cursor.pass(b'(') {
        cursor.run(|byte| byte != b')');
        if !cursor.pass(b')') {
            return None;
        }
        cursor.blanks();
    } else if blanks == 0 {
        return None;
    }
    cursor.name().map(|name| (kind, name))
}

fn shell(line: &[u8]) -> Option<(SymbolKind, &[u8])> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    let starts = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let mut cursor = Cursor::new(line, 0);
    cursor.blanks();
    let mut start = cursor.at;
    if !starts(cursor.peek()) {
        return None;
    }
    cursor.run(is_part);
    if &line[start..cursor.at] == b"function" && cursor.blanks() > 0 && starts(cursor.peek()) {
        start = cursor.at;
        cursor.run(is_part);
        return Some((SymbolKind::Function, &line[start..cursor.at]));
    }
    let name = &line[start..cursor.at];
    cursor.blanks();
    let called = cursor.pass(b'(') && {
        cursor.blanks();
        cursor.pass(b')')
    };
    called.then_some((SymbolKind::Function, name))
}

#[cfg(test)]
#[path = "code_test.rs"]
mod tests;
