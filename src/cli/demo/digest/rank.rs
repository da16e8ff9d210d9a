//! Which files and which words come first.
//!
//! The weight of a word in a file is `(1 + ln tf) · ln(1 + N / df)`: tf from the card, N the number of
//! cards, df the number of cards that list the word among their keywords. A file's score is 0.4 for
//! its eight heaviest words and 0.6 for the logarithm of how many files mention it, each relative to
//! the best: others' opinion counts a little more than one's own words.

use std::cmp::Ordering;

use super::links::Links;
use super::{Brief, Keyword, RankedFile, Words};

/// Files kept in the digest.
const RANKED: usize = 40;
/// Words kept in the digest.
const KEYWORDS: usize = 48;
/// Words that make a file's score.
const SCORING: usize = 8;
/// Words shown per file.
const SHOWN: usize = 5;
/// Files shown per word.
const TOP_FILES: usize = 3;

struct Scored {
    card: usize,
    score: f64,
}

/// The best files and words of the cards, which are sorted by path.
pub fn rank(cards: &[Brief], words: &Words, links: &Links) -> (Vec<RankedFile>, Vec<Keyword>) {
    let corpus = Corpus::of(cards, words);
    let heaviest: Vec<f64> = cards
        .iter()
        .map(|card| corpus.weigh(card, words).iter().take(SCORING).map(|(weight, _)| weight).sum())
        .collect();
    let best_words = heaviest.iter().copied().fold(0.0, f64::max);
    let best_links = links.inbound.iter().map(|inbound| inbound.files).max().unwrap_or(0);
    let mut scored: Vec<Scored> = (0..cards.len())
        .map(|card| Scored {
            card,
            score: 0.4 * share(heaviest[card], best_words)
                + 0.6 * share(log(links.inbound[card].files), log(best_links)),
        })
        .collect();
    // Cards are sorted by path, so equals come in that order.
    scored.sort_unstable_by(|a, b| descending(a.score, b.score).then(a.card.cmp(&b.card)));
    scored.truncate(RANKED);
    let ranked = scored
        .into_iter()
        .map(|Scored { card: index, score }| {
            let (card, inbound) = (&cards[index], &links.inbound[index]);
            let telling = corpus.weigh(card, words);
            RankedFile {
                path: card.path.clone(),
                title: card.title.clone(),
                score,
                keywords: telling.iter().take(SHOWN).map(|(_, word)| words.get(*word).to_owned()).collect(),
                mentioned_by: inbound.files,
                mentioners: inbound.top.iter().map(|(_, from)| cards[*from as usize].path.clone()).collect(),
                lines: card.lines,
                symbols: card.symbols,
            }
        })
        .collect();
    (ranked, corpus.keywords(cards, words))
}

/// What is known of every word, by its number.
struct Corpus {
    cards: f64,
    files: Vec<u32>,
}

impl Corpus {
    fn of(cards: &[Brief], words: &Words) -> Self {
        let mut files = vec![0; words.list.len()];
        for (word, _) in cards.iter().flat_map(|card| &card.keywords) {
            files[*word as usize] += 1;
        }
        Self { cards: cards.len() as f64, files }
    }

    fn weight(&self, word: u32, count: u32) -> f64 {
        let files = f64::from(self.files[word as usize].max(1));
        (1.0 + f64::from(count.max(1)).ln()) * (1.0 + self.cards / files).ln()
    }

    /// The card's words, heaviest first.
    fn weigh(&self, card: &Brief, words: &Words) -> Vec<(f64, u32)> {
        let mut list: Vec<(f64, u32)> =
            card.keywords.iter().map(|(word, count)| (self.weight(*word, *count), *word)).collect();
        list.sort_unstable_by(|a, b| descending(a.0, b.0).then_with(|| words.get(a.1).cmp(words.get(b.1))));
        list
    }

    /// The heaviest words of all; in a corpus of some size only those that files share.
    fn keywords(&self, cards: &[Brief], words: &Words) -> Vec<Keyword> {
        let at_least = if cards.len() > 3 { 2 } else { 1 };
        // Summed in the order of paths, so that rounding does not depend on the order of arrival.
        let mut weight = vec![0.0; words.list.len()];
        for card in cards {
            for (word, count) in &card.keywords {
                weight[*word as usize] += self.weight(*word, *count);
            }
        }
        let mut best: Vec<u32> =
            (0..words.list.len() as u32).filter(|word| self.files[*word as usize] >= at_least).collect();
        best.sort_unstable_by(|a, b| {
            descending(weight[*a as usize], weight[*b as usize])
                .then_with(|| words.get(*a).cmp(words.get(*b)))
        });
        best.truncate(KEYWORDS);
        let mut users = vec![Vec::new(); best.len()];
        let places: std::collections::HashMap<u32, usize> =
            best.iter().enumerate().map(|(place, word)| (*word, place)).collect();
        for (index, card) in cards.iter().enumerate() {
            for (word, count) in &card.keywords {
                if let Some(place) = places.get(word) {
                    users[*place].push((*count, index));
                }
            }
        }
        best.iter()
            .zip(users)
            .map(|(word, mut users)| {
                users.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
                Keyword {
                    word: words.get(*word).to_owned(),
                    weight: weight[*word as usize],
                    files: u64::from(self.files[*word as usize]),
                    top: users.iter().take(TOP_FILES).map(|(_, index)| cards[*index].path.clone()).collect(),
                }
            })
            .collect()
    }
}

fn log(count: u64) -> f64 {
    (1.0 + count as f64).ln()
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn descending(a: f64, b: f64) -> Ordering {
    b.total_cmp(&a)
}
