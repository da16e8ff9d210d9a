//! Small readers over masked bytes: names, spaces, lines.
//!
//! Owns the definitions of "name", "space" and "line" that every language shares; knows no language.

/// The six ASCII whitespace bytes.
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// A byte that may be in a name.
pub fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// A position in bytes that only moves forward.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    /// Where it stands.
    pub at: usize,
    /// Whether `$` may be in a name.
    pub dollar: bool,
}

impl<'a> Cursor<'a> {
    /// Stands at `at`.
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, dollar: false }
    }

    fn in_name(&self, byte: u8) -> bool {
        is_name_byte(byte) || (self.dollar && byte == b'$')
    }

    /// The byte it stands on.
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Passes `byte` if it stands on it.
    pub fn pass(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Passes whitespace, line breaks included; how many bytes.
    pub fn spaces(&mut self) -> usize {
        self.run(is_space)
    }

    /// Passes spaces and tabs; how many bytes.
    pub fn blanks(&mut self) -> usize {
        self.run(|byte| byte == b' ' || byte == b'\t')
    }

    /// Passes bytes while `wanted`; how many.
    pub fn run(&mut self, wanted: impl Fn(u8) -> bool) -> usize {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        self.at - start
    }

    /// Passes a name, which does not start with a digit.
    pub fn name(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        if self.peek()?.is_ascii_digit() {
            return None;
        }
        while self.peek().is_some_and(|byte| self.in_name(byte)) {
            self.at += 1;
        }
        (self.at > start).then(|| &self.bytes[start..self.at])
    }

    /// Moves to the next name at or after here and passes it; `(start, name)`.
    pub fn next_name(&mut self) -> Option<(usize, &'a [u8])> {
        while let Some(byte) = self.peek() {
            if byte.is_ascii_digit() {
                // A number with its suffix is one run, not a name after a digit.
                while self.peek().is_some_and(|byte| self.in_name(byte)) {
                    self.at += 1;
                }
            } else if self.in_name(byte) {
                let start = self.at;
                return self.name().map(|name| (start, name));
            } else {
                self.at += 1;
            }
        }
        None
    }
}

/// Lines without their `\n`, with the offset of each; a last `\n` starts no further line.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut offset = 0;
    bytes.split_inclusive(|byte| *byte == b'\n').map(move |line| {
        let start = offset;
        offset += line.len();
        (start, line.strip_suffix(b"\n").unwrap_or(line))
    })
}
