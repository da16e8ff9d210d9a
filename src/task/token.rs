//! The lease token: 128 random bits, single use, made at the edge and granted at dispatch.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A lease's secret; 32 lower-case hex digits as text. Ordered only so that sets of it iterate alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u128);

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl Token {
    /// Its text, without the formatting machinery: several are written and read per task.
    fn with_text<T>(self, then: impl FnOnce(&str) -> T) -> T {
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        // Made of digits, so it is text.
        then(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

/// Logs show enough to tell two leases apart, not enough to use one.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}…", self.0 >> 96)
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let read = || {
            let text: &[u8; 32] = text.as_bytes().try_into().ok()?;
            text.iter().try_fold(0, |value: u128, byte| Some(value << 4 | u128::from(digit(*byte)?)))
        };
        read().map(Token).ok_or("a lease token is 32 lower-case hex digits")
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Token;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a lease token of 32 hex digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Token, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_32_lower_case_hex_digits_and_nothing_else() {
        for token in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0fed_cba9_8765_4321] {
            let text = Token(token).to_string();
            assert_eq!(text, format!("{token:032x}"));
            assert_eq!(text.parse(), Ok(Token(token)));
        }
        for bad in
            ["", "0", &"A".repeat(32), &"g".repeat(32), &"0".repeat(33), &"é".repeat(16), &"+".repeat(32)]
        {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }
}
