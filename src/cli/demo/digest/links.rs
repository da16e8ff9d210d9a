//! Who mentions whom.
//!
//! A mention is a path that resolves (relative to the mentioning file, to the root, or as the only
//! file whose path ends so), or the name of a symbol that at most two files define and the mentioning
//! file does not. Each resolves by one look-up, whatever the number of files.

use std::collections::{BTreeMap, HashMap};

use super::{Brief, Reference, Words};

/// References kept in the digest.
const STRONGEST: usize = 60;
/// Mentioners kept per file.
const MENTIONERS: usize = 3;
/// Words kept per reference.
const VIA: usize = 4;
/// Endings of a path that are looked up, in components.
const SUFFIX_PARTS: usize = 4;
/// Marks an ending that several files share.
const AMBIGUOUS: u32 = u32::MAX;

/// All mentions, condensed.
#[derive(Debug, Default)]
pub struct Links {
    /// Per card: how many others mention it, and those that do most, with how often.
    pub inbound: Vec<Inbound>,
    /// Pairs of files.
    pub pairs: u64,
    /// The strongest pairs, strongest first.
    pub strongest: Vec<Reference>,
}

/// The mentions of one file.
#[derive(Debug, Default, Clone)]
pub struct Inbound {
    /// By how many files.
    pub files: u64,
    /// The most frequent, as (mentions, card), most first.
    pub top: Vec<(u64, u32)>,
}

struct Edge {
    mentions: u64,
    from: u32,
    to: u32,
    via: Vec<u32>,
}

/// Resolves the mentions of all cards, which are sorted by path.
pub fn links(cards: &[Brief], words: &Words) -> Links {
    let targets = Targets::of(cards);
    let mut links = Links { inbound: vec![Inbound::default(); cards.len()], ..Links::default() };
    let mut edges = Vec::new();
    for (from, card) in cards.iter().enumerate() {
        let from = from as u32;
        // Ordered, so that equal mentions are kept in the order of paths.
        let mut found: BTreeMap<u32, Edge> = BTreeMap::new();
        for (to, word, count) in targets.mentions(card, words) {
            if to != from {
                let edge = found.entry(to).or_insert(Edge { mentions: 0, from, to, via: Vec::new() });
                edge.mentions += u64::from(count);
                edge.via.push(word);
            }
        }
        for edge in found.into_values() {
            links.pairs += 1;
            let inbound = &mut links.inbound[edge.to as usize];
            inbound.files += 1;
            inbound.top.push((edge.mentions, from));
            // Stable: among equals the earlier path stays first.
            inbound.top.sort_by_key(|(mentions, _)| std::cmp::Reverse(*mentions));
            inbound.top.truncate(MENTIONERS);
            edges.push(edge);
        }
        if edges.len() > 100 * STRONGEST {
            keep_strongest(&mut edges);
        }
    }
    keep_strongest(&mut edges);
    links.strongest = edges.iter().map(|edge| edge.shown(cards, words)).collect();
    links
}

fn keep_strongest(edges: &mut Vec<Edge>) {
    edges.sort_unstable_by_key(|edge| (std::cmp::Reverse(edge.mentions), edge.from, edge.to));
    edges.truncate(STRONGEST);
}

impl Edge {
    fn shown(&self, cards: &[Brief], words: &Words) -> Reference {
        let mut via: Vec<String> = self.via.iter().map(|word| words.get(*word).to_owned()).collect();
        via.dedup();
        via.truncate(VIA);
        Reference {
            from: cards[self.from as usize].path.clone(),
            to: cards[self.to as usize].path.clone(),
            mentions: self.mentions,
            via,
        }
    }
}

/// What can be mentioned.
struct Targets<'a> {
    paths: HashMap<&'a str, u32>,
    endings: HashMap<&'a str, u32>,
    /// Up to three definers per name; three mean "too common to tell".
    definers: HashMap<u32, Vec<u32>>,
}

impl<'a> Targets<'a> {
    fn of(cards: &'a [Brief]) -> Self {
        let mut targets = Self { paths: HashMap::new(), endings: HashMap::new(), definers: HashMap::new() };
        for (index, card) in cards.iter().enumerate() {
            let index = index as u32;
            targets.paths.insert(&card.path, index);
            for (at, _) in card.path.rmatch_indices('/').take(SUFFIX_PARTS) {
                targets
                    .endings
                    .entry(&card.path[at + 1..])
                    .and_modify(|other| *other = AMBIGUOUS)
                    .or_insert(index);
            }
            for name in &card.defines {
                let definers = targets.definers.entry(*name).or_default();
                if definers.len() < 3 {
                    definers.push(index);
                }
            }
        }
        targets
    }

    /// What `card` mentions, as (card, word, how often), in the order of its lists.
    fn mentions(&self, card: &Brief, words: &Words) -> Vec<(u32, u32, u32)> {
        let mut found = Vec::new();
        for (word, count) in &card.paths {
            if let Some(to) = self.path(&card.path, words.get(*word)) {
                found.push((to, *word, *count));
            }
        }
        for (word, count) in &card.names {
            let definers = self.definers.get(word).map_or(&[][..], Vec::as_slice);
            if definers.len() <= 2 && card.defines.binary_search(word).is_err() {
                found.extend(definers.iter().map(|to| (*to, *word, *count)));
            }
        }
        found
    }

    fn path(&self, from: &str, mention: &str) -> Option<u32> {
        let directory = from.rsplit_once('/').map_or("", |(directory, _)| directory);
        let beside = resolve(directory, mention);
        let known = |path: &str| self.paths.get(path).copied();
        beside.as_deref().and_then(known).or_else(|| known(mention)).or_else(|| {
            let ending = mention.trim_start_matches(['.', '/']);
            self.endings.get(ending).copied().filter(|to| *to != AMBIGUOUS)
        })
    }
}

/// `mention` seen from `directory`; none if it climbs above the root.
fn resolve(directory: &str, mention: &str) -> Option<String> {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in mention.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
