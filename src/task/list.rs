//! Lists as senders claim them: a length is believed only as far as elements really come.
//!
//! Serde makes room for as many elements as a MessagePack header claims, up to a megabyte: thirteen
//! bytes would cost that much.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

/// For `#[serde(deserialize_with = "…")]` on every list of a message, of the journal and of a snapshot.
pub fn grown<'de, D, C>(deserializer: D) -> Result<C, D::Error>
where
    D: Deserializer<'de>,
    C: Default + IntoIterator<Item: Deserialize<'de>> + Extend<C::Item>,
{
    struct Grown<C>(PhantomData<C>);

    impl<'de, C> Visitor<'de> for Grown<C>
    where
        C: Default + IntoIterator<Item: Deserialize<'de>> + Extend<C::Item>,
    {
        type Value = C;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<C, A::Error> {
            let mut list = C::default();
            while let Some(element) = elements.next_element()? {
                list.extend(std::iter::once(element));
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Grown(PhantomData))
}

/// The same of a list that need not be there.
pub fn grown_some<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    grown(deserializer).map(Some)
}
