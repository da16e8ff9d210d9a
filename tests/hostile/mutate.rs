//! Good bytes made bad, the same way for the same seed.

/// Bytes that mean much to a decoder: long lists, maps, texts, extensions, numbers at their ends, JSON's brackets.
const TELLING: [&[u8]; 18] = [
    &[0xdd, 0xff, 0xff, 0xff, 0xff],
    &[0xdf, 0xff, 0xff, 0xff, 0xff],
    &[0xdb, 0x7f, 0xff, 0xff, 0xff],
    &[0xc6, 0xff, 0xff, 0xff, 0xff],
    &[0xc9, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xd4, 0x01, 0x00],
    &[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0],
    &[0xc1],
    &[0xc0],
    &[0x80],
    &[0x91, 0x91, 0x91, 0x91],
    &[0x00],
    &[0xff],
    b"[[[[",
    b"{\"v\":",
    b"null",
    b"18446744073709551616",
];

/// Numbers without end.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`; 0 if there is nothing below it.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() >> 11) as usize % n }
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// One of the seeds with a few changes.
pub fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = rng.pick(seeds).clone();
    for _ in 0..1 + rng.below(5) {
        let at = rng.below(bytes.len() + 1);
        let upto = at + rng.below((bytes.len() - at).min(64) + 1);
        match rng.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = rng.next() as u8,
            2 => drop(bytes.drain(at..upto)),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..upto].to_vec();
                bytes.splice(at..at, again);
            }
            5 => drop(bytes.splice(at..at, rng.pick(&TELLING).iter().copied())),
            6 => {
                let telling = rng.pick(&TELLING);
                let upto = (at + telling.len()).min(bytes.len());
                bytes.splice(at..upto, telling.iter().copied());
            }
            7 => {
                let other = rng.pick(seeds);
                let from = rng.below(other.len() + 1);
                let piece = &other[from..(from + rng.below(200)).min(other.len())];
                bytes.splice(at..upto, piece.iter().copied());
            }
            _ => {
                let noise: Vec<u8> = (0..rng.below(16)).map(|_| rng.next() as u8).collect();
                bytes.splice(at..at, noise);
            }
        }
    }
    bytes.truncate(16 * 1024);
    bytes
}
