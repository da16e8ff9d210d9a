//! Objects: results of steps that are too large for reports and the journal, kept beside them under their hash.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{Code, Refusal, hex};

/// Bytes of a step's result that is recorded itself; a larger one is kept as an object.
pub const MAX_INLINE_STEP: usize = 64 * 1024;
/// Bytes of one object, at most.
pub const MAX_OBJECT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of all objects of one task, at most.
pub const MAX_OBJECTS_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes of one chunk of an object, at most.
pub const MAX_CHUNK_BYTES: usize = 512 * 1024;
/// Chunks of one object, at most.
pub const MAX_CHUNKS: u32 = 4_096;

/// SHA-256 of an object's bytes; 64 lower-case hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectHash([u8; 32]);

impl ObjectHash {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for ObjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ObjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Text that is no hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no hash of an object: it has 64 lower-case hex digits")]
pub struct NoHash;

impl FromStr for ObjectHash {
    type Err = NoHash;

    fn from_str(text: &str) -> Result<Self, NoHash> {
        let digits = text.as_bytes();
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(NoHash),
        };
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return Err(NoHash);
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Ok(Self(hash))
    }
}

impl Serialize for ObjectHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for ObjectHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ObjectHash;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a hash of 64 lower-case hex digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ObjectHash, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// What an object is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Of all its bytes.
    pub hash: ObjectHash,
    /// How many.
    pub bytes: u64,
    /// In so many chunks, from 0 on.
    pub chunks: u32,
}

impl Object {
    /// Refuses what can't be recorded as the result of a step, beside so many bytes of the task's other objects.
    pub fn check(&self, step: &str, others: u64) -> Result<(), Refusal> {
        check_object_bytes(step, self.bytes, others)?;
        let chunks = u64::from(self.chunks);
        let fits = self.bytes <= chunks * MAX_CHUNK_BYTES as u64;
        if fits && (1..=MAX_CHUNKS).contains(&self.chunks) && chunks <= self.bytes {
            return Ok(());
        }
        let message = format!(
            "step `{step}`: an object of {} bytes in {chunks} chunks; it has 1 to {MAX_CHUNKS}, none of them empty or above \
             {MAX_CHUNK_BYTES} bytes",
            self.bytes
        );
        Err(Refusal::over(Code::BadMessage, message, self.chunks.into(), MAX_CHUNKS.into()))
    }
}

/// Refuses a result of so many bytes that is too large, or too large beside so many bytes of the task's other objects.
pub fn check_object_bytes(step: &str, bytes: u64, others: u64) -> Result<(), Refusal> {
    if bytes > MAX_OBJECT_BYTES {
        let message = format!(
            "step `{step}` has a result of {bytes} bytes, at most {MAX_OBJECT_BYTES} are kept; store it elsewhere and \
             record where"
        );
        return Err(Refusal::over(Code::TooLarge, message, bytes, MAX_OBJECT_BYTES));
    }
    let total = others.saturating_add(bytes);
    if total > MAX_OBJECTS_BYTES {
        let message = format!(
            "step `{step}`: with its {bytes} bytes the large results of the task's steps have {total}, at most \
             {MAX_OBJECTS_BYTES} are kept"
        );
        return Err(Refusal::over(Code::StepsExceeded, message, total, MAX_OBJECTS_BYTES));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_64_lower_case_hex_digits_and_nothing_else() {
        let hash = ObjectHash::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((hash.to_string().as_str(), text.parse()), (text, Ok(hash)));
        for wrong in
            ["", "ba78", &text.to_uppercase(), &text.replace('b', "g"), &format!("{text}0"), &"é".repeat(32)]
        {
            assert_eq!(wrong.parse::<ObjectHash>(), Err(NoHash), "{wrong}");
        }
    }

    #[test]
    fn an_object_is_refused_by_its_size_by_the_task_s_and_by_its_chunks() {
        let object = |bytes, chunks| Object { hash: ObjectHash::of(b""), bytes, chunks };
        let code = |object: Object, others| object.check("scrape", others).map_err(|refusal| refusal.code);
        assert_eq!(code(object(MAX_OBJECT_BYTES, 128), MAX_OBJECTS_BYTES - MAX_OBJECT_BYTES), Ok(()));
        assert_eq!(code(object(MAX_OBJECT_BYTES + 1, 1), 0), Err(Code::TooLarge));
        assert_eq!(code(object(1, 1), MAX_OBJECTS_BYTES), Err(Code::StepsExceeded));
        assert_eq!(code(object(u64::MAX, 1), u64::MAX), Err(Code::TooLarge));
        let unreadable = (MAX_OBJECT_BYTES, 127);
        for (bytes, chunks) in [(0, 0), (0, 1), (5, 0), (5, 6), (1 << 20, MAX_CHUNKS + 1), unreadable] {
            assert_eq!(code(object(bytes, chunks), 0), Err(Code::BadMessage), "{bytes} in {chunks}");
        }
        let said = object(MAX_OBJECT_BYTES + 1, 1).check("scrape", 0).unwrap_err().message;
        assert!(
            said.contains("`scrape`") && said.contains("67108865") && said.contains("67108864"),
            "{said}"
        );
    }
}
