//! What agents say to each other through tasks: opaque bytes the coordinator never parses.
//!
//! Two kinds, told apart by the encoding itself, so that no tag can contradict the data:
//!
//! | | in MessagePack | in JSON |
//! |---|---|---|
//! | [`Payload::Json`] | `str` holding JSON text | the JSON value itself |
//! | [`Payload::Bytes`] | `bin` | `{"$bytes": "<base64>"}` |
//!
//! JSON text that turns out to be no JSON is shown to JSON readers as `{"$text": "..."}`.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{field_path, without_content};

/// An input, a result or an event's data.
#[derive(Clone, PartialEq, Eq)]
pub enum Payload {
    /// JSON text. What SDKs send unless told otherwise.
    Json(Bytes),
    /// Bytes of the agents' own choosing.
    Bytes(Bytes),
}

impl Default for Payload {
    fn default() -> Self {
        Self::Json(Bytes::from_static(b"null"))
    }
}

/// Payloads may hold secrets; debug output shows kind and size only.
impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(b) => write!(f, "Json({} bytes)", b.len()),
            Self::Bytes(b) => write!(f, "Bytes({} bytes)", b.len()),
        }
    }
}

impl Payload {
    /// Encodes `value` as JSON.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        Ok(Self::Json(Bytes::from(serde_json::to_vec(value)?)))
    }

    /// Decodes JSON text into `T`; for bytes, decodes MessagePack. The error says what does not fit,
    /// without what was there: it ends in logs and in the index.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        match self {
            Self::Json(text) => {
                let mut de = serde_json::Deserializer::from_slice(text);
                let value = serde_path_to_error::deserialize(&mut de)
                    .map_err(|e| format!("{}: {}", field_path(e.path()), unfit(e.inner())))?;
                de.end().map_err(|e| unfit(&e))?;
                Ok(value)
            }
            Self::Bytes(bytes) => rmp_serde::from_slice(bytes).map_err(|e| unfit(&e)),
        }
    }

    /// The bytes, whatever their kind.
    pub fn as_bytes(&self) -> &Bytes {
        match self {
            Self::Json(b) | Self::Bytes(b) => b,
        }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }

    /// One byte that tells the kinds apart in hashes.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Json(_) => b'j',
            Self::Bytes(_) => b'b',
        }
    }
}

fn unfit(error: &impl ToString) -> String {
    without_content(&error.to_string())
}

#[derive(Serialize)]
struct AsBase64 {
    #[serde(rename = "$bytes")]
    bytes: String,
}

#[derive(Serialize)]
struct AsText<'a> {
    #[serde(rename = "$text")]
    text: std::borrow::Cow<'a, str>,
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(text) if serializer.is_human_readable() => {
                match serde_json::from_slice::<&RawValue>(text) {
                    Ok(raw) => raw.serialize(serializer),
                    Err(_) => AsText { text: String::from_utf8_lossy(text) }.serialize(serializer),
                }
            }
            Self::Bytes(bytes) if serializer.is_human_readable() => {
                AsBase64 { bytes: BASE64.encode(bytes) }.serialize(serializer)
            }
            Self::Json(text) => match std::str::from_utf8(text) {
                Ok(text) => serializer.serialize_str(text),
                Err(_) => serializer.serialize_bytes(text),
            },
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
        }
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let raw = Box::<RawValue>::deserialize(deserializer)?;
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Tagged {
                #[serde(rename = "$bytes")]
                bytes: String,
            }
            if raw.get().starts_with('{')
                && let Ok(tagged) = serde_json::from_str::<Tagged>(raw.get())
            {
                let bytes = BASE64
                    .decode(&tagged.bytes)
                    .map_err(|e| serde::de::Error::custom(format!("\"$bytes\" holds no base64: {e}")))?;
                return Ok(Self::Bytes(Bytes::from(bytes)));
            }
            return Ok(Self::Json(Bytes::from(String::from(Box::<str>::from(raw)))));
        }
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Payload;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a payload: str (JSON text) or bin")
            }

            fn visit_str<E>(self, text: &str) -> Result<Payload, E> {
                Ok(Payload::Json(Bytes::copy_from_slice(text.as_bytes())))
            }

            fn visit_string<E>(self, text: String) -> Result<Payload, E> {
                Ok(Payload::Json(Bytes::from(text)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Payload, E> {
                Ok(Payload::Bytes(Bytes::copy_from_slice(bytes)))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Payload, E> {
                Ok(Payload::Bytes(Bytes::from(bytes)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways(payload: &Payload) {
        let packed = rmp_serde::to_vec_named(payload).unwrap();
        assert_eq!(&rmp_serde::from_slice::<Payload>(&packed).unwrap(), payload);
        let json = serde_json::to_string(payload).unwrap();
        assert_eq!(&serde_json::from_str::<Payload>(&json).unwrap(), payload, "{json}");
    }

    #[test]
    fn json_and_bytes_survive_both_encodings() {
        both_ways(&Payload::Json(Bytes::from_static(br#"{"a":[1,2.50,"x"],"big":123456789012345678901}"#)));
        for n in 0..20u8 {
            both_ways(&Payload::Bytes(Bytes::from((0..n).map(|i| i.wrapping_mul(83)).collect::<Vec<_>>())));
        }
    }

    #[test]
    fn text_that_is_no_json_is_shown_not_spliced() {
        let json = serde_json::to_string(&Payload::Json(Bytes::from_static(b"{oops"))).unwrap();
        assert_eq!(json, r#"{"$text":"{oops"}"#);
    }

    #[test]
    fn debug_output_holds_no_payload() {
        let shown = format!("{:?}", Payload::Json(Bytes::from_static(b"\"secret\"")));
        assert_eq!(shown, "Json(8 bytes)");
    }
}
