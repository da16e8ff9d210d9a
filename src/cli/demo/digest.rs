//! Merges the cards of many files into one ranked digest.
//!
//! Owns what the librarian keeps while cards arrive and the shape of its result. Never reads a file,
//! knows no order: the same cards in any order give the same digest. It scales to 20,000 cards: a
//! card is reduced to word numbers on arrival, everything after is linear in their sum but for
//! sorting. `rank` says who comes first, `links` who mentions whom, [`super::markdown`] shows it.

mod links;
mod rank;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::card::{Counted, Counts, FileCard, FileKind};
use super::walk::{Omissions, SkipReason, Skipped};

/// A digest is smaller than this in JSON, so that it fits a task's result.
pub const MAX_DIGEST_BYTES: usize = 128 * 1024;
/// How many left-out files a digest names.
const MAX_LISTED: usize = 50;

/// What a directory holds, ranked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// How many cards were merged.
    pub files: u64,
    /// Summed over all cards; exact.
    pub totals: Counts,
    /// The same per kind of file.
    pub kinds: BTreeMap<FileKind, KindTotals>,
    /// The best files, best first.
    pub ranked: Vec<RankedFile>,
    /// The most telling words of the corpus, most telling first.
    pub keywords: Vec<Keyword>,
    /// How many pairs (a file, another that it mentions) there are.
    pub reference_pairs: u64,
    /// The strongest of them.
    pub references: Vec<Reference>,
    /// What was left out: exact counts, the first by name.
    pub omissions: Omissions,
    /// What a reader of the digest should know about its completeness.
    pub notes: Vec<String>,
}

/// The totals of one kind of file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "self-evident")]
pub struct KindTotals {
    pub files: u64,
    pub counts: Counts,
}

/// A file and why it ranks where it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankedFile {
    /// Relative path.
    pub path: String,
    /// Its first heading, if it has one.
    pub title: Option<String>,
    /// From 0 to 1: telling words and being mentioned.
    pub score: f64,
    /// Its most telling words.
    pub keywords: Vec<String>,
    /// How many other files mention it or a symbol it defines.
    pub mentioned_by: u64,
    /// Some of them, those that mention it most.
    pub mentioners: Vec<String>,
    /// Lines of the file.
    pub lines: u64,
    /// Symbols it defines.
    pub symbols: u64,
}

/// A word and where it matters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Keyword {
    /// In lower case.
    pub word: String,
    /// Its tf-idf, summed over the files.
    pub weight: f64,
    /// In how many files it is among the keywords.
    pub files: u64,
    /// The files that use it most.
    pub top: Vec<String>,
}

/// One file mentions another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The file that mentions.
    pub from: String,
    /// The file that is mentioned.
    pub to: String,
    /// How often.
    pub mentions: u64,
    /// By which words: its path, or symbols it defines.
    pub via: Vec<String>,
}

/// Collects cards; one builder makes one digest.
#[derive(Debug, Default)]
pub struct DigestBuilder {
    words: Words,
    cards: Vec<Brief>,
    seen: BTreeSet<String>,
    totals: Counts,
    kinds: BTreeMap<FileKind, KindTotals>,
    skipped: BTreeSet<Skipped>,
    skip_counts: BTreeMap<SkipReason, u64>,
    notes: BTreeSet<String>,
}

/// What ranking needs of a card, words as numbers: a tenth of its size.
#[derive(Debug)]
struct Brief {
    path: String,
    title: Option<String>,
    lines: u64,
    symbols: u64,
    keywords: Box<[(u32, u32)]>,
    paths: Box<[(u32, u32)]>,
    names: Box<[(u32, u32)]>,
    defines: Box<[u32]>,
    dropped: bool,
}

/// Numbers for words, in order of arrival: never let a number decide an order.
#[derive(Debug, Default)]
struct Words {
    numbers: HashMap<std::sync::Arc<str>, u32>,
    list: Vec<std::sync::Arc<str>>,
}

impl Words {
    fn number(&mut self, word: &str) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        let number = self.list.len() as u32;
        let word: std::sync::Arc<str> = word.into();
        self.list.push(word.clone());
        self.numbers.insert(word, number);
        number
    }

    fn numbered(&mut self, list: &[Counted]) -> Box<[(u32, u32)]> {
        list.iter().map(|counted| (self.number(&counted.word), counted.count)).collect()
    }

    fn get(&self, number: u32) -> &str {
        &self.list[number as usize]
    }
}

impl DigestBuilder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a card in; false if one of the same path was taken before, which is then kept.
    pub fn add(&mut self, card: &FileCard) -> bool {
        if !self.seen.insert(card.path.clone()) {
            return false;
        }
        self.totals.add(&card.counts);
        let kind = self.kinds.entry(card.kind).or_default();
        kind.files += 1;
        kind.counts.add(&card.counts);
        let mut defines: Vec<u32> = card
            .symbols
            .iter()
            .filter(|symbol| symbol.kind.is_referable())
            .map(|symbol| self.words.number(&symbol.name))
            .collect();
        defines.sort_unstable();
        defines.dedup();
        let dropped = &card.dropped;
        self.cards.push(Brief {
            path: card.path.clone(),
            title: card.headings.first().map(|heading| heading.text.clone()),
            lines: card.counts.lines,
            symbols: card.counts.symbol_total(),
            keywords: self.words.numbered(&card.keywords),
            paths: self.words.numbered(&card.paths),
            names: self.words.numbered(&card.names),
            defines: defines.into(),
            dropped: dropped.symbols + dropped.paths + dropped.names > 0,
        });
        true
    }

    /// Takes in what the walk left out.
    pub fn omit(&mut self, omissions: &Omissions) {
        for (reason, count) in &omissions.counts {
            *self.skip_counts.entry(*reason).or_default() += count;
        }
        for skipped in &omissions.listed {
            self.list(skipped.clone());
        }
    }

    /// Takes in a file that a reader could not make a card of.
    pub fn skip(&mut self, path: &str, reason: SkipReason) {
        *self.skip_counts.entry(reason).or_default() += 1;
        self.list(Skipped { path: path.to_owned(), reason });
    }

    /// Adds a sentence about the digest's completeness.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.insert(note.into());
    }

    fn list(&mut self, skipped: Skipped) {
        self.skipped.insert(skipped);
        if self.skipped.len() > MAX_LISTED {
            self.skipped.pop_last();
        }
    }

    /// Ranks and links. Takes seconds at 20,000 cards: call it off the async threads.
    pub fn finish(mut self) -> Digest {
        self.cards.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let links = links::links(&self.cards, &self.words);
        let (ranked, keywords) = rank::rank(&self.cards, &self.words, &links);
        let cut = self.cards.iter().filter(|card| card.dropped).count();
        if cut > 0 {
            self.notes.insert(format!(
                "{cut} long files name more than a card lists; their counts are exact, their \
                 cross-references may be incomplete"
            ));
        }
        Digest {
            files: self.cards.len() as u64,
            totals: self.totals,
            kinds: self.kinds,
            ranked,
            keywords,
            reference_pairs: links.pairs,
            references: links.strongest,
            omissions: Omissions { counts: self.skip_counts, listed: self.skipped.into_iter().collect() },
            notes: self.notes.into_iter().collect(),
        }
        .bounded()
    }
}

impl Digest {
    /// Halves the lists until the digest fits [`MAX_DIGEST_BYTES`]; only very long paths need it.
    fn bounded(mut self) -> Self {
        // A digest holds strings and finite numbers; serialising it cannot fail.
        while serde_json::to_vec(&self).map_or(0, |json| json.len()) >= MAX_DIGEST_BYTES {
            self.ranked.truncate(self.ranked.len() / 2);
            self.keywords.truncate(self.keywords.len() / 2);
            self.references.truncate(self.references.len() / 2);
            self.omissions.listed.truncate(self.omissions.listed.len() / 2);
        }
        self
    }
}

#[cfg(test)]
mod tests;
