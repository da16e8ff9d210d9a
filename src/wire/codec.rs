//! MessagePack (named maps) and JSON, told apart by header or first byte, answered in kind.
//!
//! Decoding is strict: one value, no trailing bytes, bounded depth, errors that name the field.
//! Encoders write to memory and can't fail on our own types; they return bytes.

use std::cell::Cell;

use bytes::Bytes;
use rmp_serde::decode::Error as Unpacked;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::headers;
use crate::task::{field_path, without_content};

/// Maps, arrays and tagged values nested in each other, at most.
const MAX_DEPTH: usize = 16;

/// How a message is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// MessagePack with named maps: the default.
    #[default]
    MsgPack,
    /// JSON, for people and other languages.
    Json,
}

/// A message that can't be read. Never repeats the message's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes.
    #[error("the message is empty")]
    Empty,
    /// More bytes than this message may have.
    #[error("the message has {actual} bytes, at most {limit} are accepted")]
    TooLarge {
        /// Bytes found.
        actual: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Bytes after the value.
    #[error("{extra} bytes follow the {format} value")]
    Trailing {
        /// How many.
        extra: usize,
        /// In which encoding.
        format: &'static str,
    },
    /// Not the expected shape.
    #[error("not valid {format} at `{path}`: {reason}")]
    Shape {
        /// In which encoding.
        format: &'static str,
        /// The field, as a path.
        path: String,
        /// What was wrong with it.
        reason: String,
    },
}

impl Format {
    /// By content type if given and known, else by the first byte. MessagePack messages are maps, whose
    /// first byte is no ASCII character; everything else, no byte at all too, is answered for people.
    pub fn of(content_type: Option<&str>, body: &[u8]) -> Self {
        match content_type {
            Some(t) if t.starts_with(headers::JSON) => Self::Json,
            Some(t) if t.starts_with(headers::MSGPACK) => Self::MsgPack,
            _ => match body.first() {
                Some(first) if !first.is_ascii() => Self::MsgPack,
                _ => Self::Json,
            },
        }
    }

    /// For the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::MsgPack => headers::MSGPACK,
            Self::Json => headers::JSON,
        }
    }

    /// Encodes one of our own messages.
    pub fn encode<T: Serialize>(self, message: &T) -> Bytes {
        match self {
            Self::MsgPack => pack(message),
            Self::Json => Bytes::from(serde_json::to_vec(message).unwrap_or_else(|error| {
                // Our messages have string keys and no failing serializers.
                unreachable!("own message not encodable: {error}")
            })),
        }
    }

    /// Decodes one message of at most `limit` bytes.
    pub fn decode<T: DeserializeOwned>(self, body: &[u8], limit: usize) -> Result<T, DecodeError> {
        if body.is_empty() {
            return Err(DecodeError::Empty);
        }
        if body.len() > limit {
            return Err(DecodeError::TooLarge { actual: body.len(), limit });
        }
        match self {
            Self::MsgPack => unpack(body),
            Self::Json => from_json(body),
        }
    }
}

/// Decodes a message in whichever encoding it is in.
pub fn decode_any<T: DeserializeOwned>(
    content_type: Option<&str>,
    body: &[u8],
    limit: usize,
) -> (Format, Result<T, DecodeError>) {
    let format = Format::of(content_type, body);
    (format, format.decode(body, limit))
}

/// What a thread keeps for encoding, at most, in bytes.
const SCRATCH: usize = 64 * 1024;

/// Encodes as MessagePack with named maps.
pub fn pack<T: Serialize>(message: &T) -> Bytes {
    thread_local! {
        /// Has grown to what messages need, so that one is written without growing and then copied
        /// into exactly its size.
        static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut buffer = BUFFER.take();
    buffer.clear();
    pack_into(message, &mut buffer);
    if buffer.len() > SCRATCH {
        return Bytes::from(buffer);
    }
    let bytes = Bytes::copy_from_slice(&buffer);
    BUFFER.set(buffer);
    bytes
}

/// Appends the same to `out`.
pub fn pack_into<T: Serialize>(message: &T, out: &mut Vec<u8>) {
    if let Err(error) = message.serialize(&mut rmp_serde::Serializer::new(out).with_struct_map()) {
        // Writing to a Vec can't fail and our types have no failing serializers.
        unreachable!("own message not encodable: {error}");
    }
}

/// Decodes MessagePack: one value, depth at most 16, nothing after it. Text is read where it stands.
pub fn unpack<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let mut de = rmp_serde::Deserializer::from_read_ref(body);
    de.set_max_depth(MAX_DEPTH);
    match T::deserialize(&mut de) {
        // No marker is left to be read: that was all.
        Ok(value) if matches!(u8::deserialize(&mut de), Err(Unpacked::InvalidMarkerRead(_))) => Ok(value),
        _ => Err(misfit::<T>(body)),
    }
}

/// What is wrong, and where, is looked for only in what does not fit.
#[cold]
fn misfit<T: DeserializeOwned>(body: &[u8]) -> DecodeError {
    let mut rest = body;
    let mut de = rmp_serde::Deserializer::new(&mut rest);
    de.set_max_depth(MAX_DEPTH);
    match serde_path_to_error::deserialize::<_, T>(&mut de) {
        Err(error) => shape("MessagePack", &error),
        Ok(_) => DecodeError::Trailing { extra: rest.len(), format: "MessagePack" },
    }
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let mut de = serde_json::Deserializer::from_slice(body);
    let Ok(value) = T::deserialize(&mut de) else {
        let mut de = serde_json::Deserializer::from_slice(body);
        return serde_path_to_error::deserialize(&mut de).map_err(|e| shape("JSON", &e));
    };
    de.end().map_err(|_| DecodeError::Trailing { extra: trailing(body), format: "JSON" })?;
    Ok(value)
}

fn trailing(body: &[u8]) -> usize {
    let mut stream = serde_json::Deserializer::from_slice(body).into_iter::<serde::de::IgnoredAny>();
    let _first = stream.next();
    body.len() - stream.byte_offset()
}

fn shape<E: std::fmt::Display>(format: &'static str, error: &serde_path_to_error::Error<E>) -> DecodeError {
    let mut reason: String = without_content(&error.inner().to_string()).chars().take(200).collect();
    reason.retain(|c| !c.is_control());
    DecodeError::Shape { format, path: field_path(error.path()), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Probe {
        name: String,
        #[serde(default)]
        n: u32,
    }

    #[test]
    fn both_encodings_carry_the_same_message() {
        let probe = Probe { name: "a".into(), n: 3 };
        for format in [Format::MsgPack, Format::Json] {
            let bytes = format.encode(&probe);
            let (found, back) = decode_any::<Probe>(None, &bytes, 100);
            assert_eq!((found, back), (format, Ok(Probe { name: "a".into(), n: 3 })));
        }
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let probe = Probe { name: "a".into(), n: 3 };
        for format in [Format::MsgPack, Format::Json] {
            let mut bytes = format.encode(&probe).to_vec();
            bytes.extend_from_slice(b"{}x");
            assert!(matches!(
                format.decode::<Probe>(&bytes, 100),
                Err(DecodeError::Trailing { extra: 3, .. })
            ));
        }
    }

    #[test]
    fn every_byte_after_a_value_is_noticed() {
        let packed = pack(&Probe { name: "a".into(), n: 3 });
        for byte in 0..=u8::MAX {
            let followed = [&packed[..], &[byte]].concat();
            let trailing = DecodeError::Trailing { extra: 1, format: "MessagePack" };
            assert_eq!(unpack::<Probe>(&followed), Err(trailing), "{byte:#x}");
        }
        for cut in 0..packed.len() {
            assert!(matches!(unpack::<Probe>(&packed[..cut]), Err(DecodeError::Shape { .. })), "{cut}");
        }
    }

    #[test]
    fn a_buffer_that_is_used_again_holds_nothing_of_before() {
        let long = Probe { name: "x".repeat(SCRATCH), n: 1 };
        let short = Probe { name: "y".into(), n: 2 };
        for probe in [&short, &long, &short, &long] {
            let packed = pack(probe);
            assert_eq!(&packed[..], &rmp_serde::to_vec_named(probe).unwrap()[..]);
            assert_eq!(&unpack::<Probe>(&packed).unwrap(), probe);
        }
    }

    #[test]
    fn an_error_names_the_field() {
        let error = Format::Json.decode::<Probe>(br#"{"name":"a","n":"x"}"#, 100).unwrap_err();
        assert!(error.to_string().contains("`n`"), "{error}");
    }

    #[test]
    fn an_error_repeats_nothing_of_the_message() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Word {
            Known {},
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its errors are looked at")]
        struct Strict {
            #[serde(default)]
            n: u32,
            #[serde(default)]
            words: Vec<Word>,
        }
        for (body, path) in [
            (r#"{"n":"hunter2\", expected nothing"}"#, "`n`"),
            (r#"{"n":42424242424}"#, "`n`"),
            (r#"{"n":true}"#, "`n`"),
            (r#"{"n":4242.5}"#, "`n`"),
            (r#"{"hunter2`, expected a":1}"#, ""),
            (r#"{"words":[{"hunter2":{}}]}"#, "`words[0]"),
            (r#"{"words":["hunter2`, expected `x"]}"#, "`words[0]"),
            (r#""hunter2""#, ""),
            ("hunter2", ""),
        ] {
            let value = serde_json::from_str::<serde_json::Value>(body).ok();
            let packed = value.map(|v| Format::MsgPack.encode(&v));
            let bodies = [(Format::Json, body.as_bytes().to_vec())];
            let packed = packed.map(|b| (Format::MsgPack, b.to_vec()));
            for (format, bytes) in bodies.into_iter().chain(packed) {
                let error = format.decode::<Strict>(&bytes, 1_000).unwrap_err().to_string();
                assert!(!error.contains("hunter2") && !error.contains("4242"), "{body}: {error}");
                assert!(error.contains(path), "{body}: {error}");
            }
        }
    }

    #[test]
    fn text_of_any_kind_is_answered_as_text() {
        for (body, format) in [
            (&b""[..], Format::Json),
            (b"hello", Format::Json),
            (b"{}", Format::Json),
            (b"\x80", Format::MsgPack),
            (b"\xde\x00\x00", Format::MsgPack),
        ] {
            assert_eq!(Format::of(None, body), format);
        }
        assert_eq!(Format::of(Some("application/msgpack"), b""), Format::MsgPack);
    }

    #[test]
    fn a_bomb_is_refused_without_allocation() {
        let mut deep = vec![0x91; 100_000];
        deep.push(0xc0);
        assert!(unpack::<serde_json::Value>(&deep).is_err());
        let huge = [0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0];
        assert!(unpack::<Vec<u64>>(&huge).is_err());
        assert_eq!(Format::MsgPack.decode::<Probe>(&[], 10), Err(DecodeError::Empty));
        assert!(matches!(Format::MsgPack.decode::<Probe>(&[0; 11], 10), Err(DecodeError::TooLarge { .. })));
    }
}
