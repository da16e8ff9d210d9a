//! Numbers about numbers: percentiles of one run, spread over several. Percentiles come from every sample, sorted;
//! nothing is bucketed, trimmed or interpolated.

use std::time::Duration;

/// A figure over all runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted.len() / 2;
        let lower = (sorted.len() - 1) / 2;
        Some(Spread { median: f64::midpoint(sorted[lower], sorted[upper]), min, max })
    }

    /// A figure that was taken once.
    pub fn once(value: f64) -> Spread {
        Spread { median: value, min: value, max: value }
    }
}

/// Every sample of one run.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    nanos: Vec<u64>,
}

impl Samples {
    /// With all samples known already, in nanoseconds.
    pub fn new(mut nanos: Vec<u64>) -> Samples {
        nanos.sort_unstable();
        Samples { nanos }
    }

    /// The smallest sample that `share` of all samples do not exceed (nearest rank), in milliseconds.
    pub fn percentile_ms(&self, share: f64) -> Option<f64> {
        let rank = (share * self.nanos.len() as f64).ceil() as usize;
        let at = rank.clamp(1, self.nanos.len().max(1)) - 1;
        self.nanos.get(at).map(|nanos| Duration::from_nanos(*nanos).as_secs_f64() * 1e3)
    }
}

/// What an open loop saw, from the time each task was due.
#[derive(Debug, Clone, Default)]
pub struct Paced {
    /// Until the handler started.
    pub started: Samples,
    /// Until the client had been told of the end.
    pub seen: Samples,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_middle_smallest_and_largest() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_percentile_is_a_sample_that_was_taken() {
        let samples = Samples::new((1..=1_000).rev().map(|ms| ms * 1_000_000).collect());
        let at = |share| samples.percentile_ms(share);
        assert_eq!((at(0.5), at(0.99), at(1.0)), (Some(500.0), Some(990.0), Some(1_000.0)));
        assert_eq!(Samples::new(vec![7_000_000]).percentile_ms(0.99), Some(7.0));
        assert_eq!(Samples::default().percentile_ms(0.5), None);
    }
}
