//! What the core's tests share: numbers that are known beforehand, and an engine that is turned until it rests.

use super::{
    engine::{Effect, Engine, Next},
    input::Entropy,
};
use crate::task::Token;

/// Tokens in a row, the first one behind the number given here, and always the same jitter.
#[derive(Default)]
pub struct Given {
    pub tokens: u128,
    pub jitter: u64,
}

impl Entropy for Given {
    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn jitter(&mut self) -> u64 {
        self.jitter
    }
}

/// Everything that follows from what was pushed; every turn has the same token.
pub fn effects<H>(engine: &mut Engine<H>) -> Vec<Effect<H>> {
    let mut out = Vec::new();
    loop {
        match engine.next(5, 1_000, &mut Given::default()).unwrap() {
            Next::Idle => return out,
            Next::Effects(effects) => out.extend(effects),
            Next::Append { .. } => {
                let seq = engine.seq() + 1;
                out.extend(engine.appended(seq));
            }
        }
    }
}
