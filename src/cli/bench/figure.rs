//! What was measured, as people and programs get it: one figure a line, with its reference, ratio and target.
//!
//! A target is judged only where it is meant: in a full run of a release build. Elsewhere it is shown, and `pass` is
//! `null`.

use std::io;

use serde::Serialize;

use super::stats::Spread;
use crate::cli::output::{Output, table};

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The ratio to the reference is at least this.
    RatioAtLeast(f64),
    /// The ratio to the reference is at most this.
    RatioAtMost(f64),
    /// The value is at most this.
    AtMost(f64),
    /// The value is at least this.
    AtLeast(f64),
}

impl Target {
    fn text(self) -> String {
        match self {
            Target::RatioAtLeast(n) => format!("ratio >= {n}"),
            Target::RatioAtMost(n) => format!("ratio <= {n}"),
            Target::AtMost(n) => format!("<= {n}"),
            Target::AtLeast(n) => format!(">= {n}"),
        }
    }

    fn is_met(self, value: f64, ratio: Option<f64>) -> bool {
        match self {
            Target::RatioAtLeast(n) => ratio.is_some_and(|ratio| ratio >= n),
            Target::RatioAtMost(n) => ratio.is_some_and(|ratio| ratio <= n),
            Target::AtMost(n) => value <= n,
            Target::AtLeast(n) => value >= n,
        }
    }
}

/// One figure.
#[derive(Debug, Clone)]
pub struct Figure {
    name: String,
    unit: &'static str,
    value: Spread,
    reference: Option<Spread>,
    target: Option<Target>,
}

impl Figure {
    /// Over all runs. Nothing if nothing was measured.
    pub fn over(name: impl Into<String>, unit: &'static str, runs: &[f64]) -> Option<Figure> {
        let value = Spread::of(runs)?;
        Some(Figure { name: name.into(), unit, value, reference: None, target: None })
    }

    /// Taken once.
    pub fn once(name: impl Into<String>, unit: &'static str, value: f64) -> Figure {
        let value = Spread::once(value);
        Figure { name: name.into(), unit, value, reference: None, target: None }
    }

    /// Measured beside it, in the same runs.
    pub fn against(mut self, runs: &[f64]) -> Figure {
        self.reference = Spread::of(runs);
        self
    }

    /// What it should be.
    pub fn target(mut self, target: Target) -> Figure {
        self.target = Some(target);
        self
    }

    /// Median to median.
    fn ratio(&self) -> Option<f64> {
        let reference = self.reference?.median;
        (reference != 0.0).then(|| self.value.median / reference)
    }
}

/// A figure as `--json` prints it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    case: &'a str,
    figure: &'a str,
    value: f64,
    unit: &'a str,
    reference: Option<f64>,
    ratio: Option<f64>,
    target: Option<String>,
    pass: Option<bool>,
    min: f64,
    max: f64,
}

/// Collects figures and says them.
pub struct Report {
    output: Output,
    judged: bool,
    missed: Vec<String>,
    rows: Vec<[String; 7]>,
}

impl Report {
    /// Says figures on `output`; judges targets if this is a run they are meant for.
    pub fn new(output: Output, judged: bool) -> Report {
        Report { output, judged, missed: Vec::new(), rows: Vec::new() }
    }

    /// Takes a figure in.
    pub fn add(&mut self, case: &str, figure: impl Into<Option<Figure>>) -> io::Result<()> {
        let Some(figure) = figure.into() else { return Ok(()) };
        let ratio = figure.ratio();
        let pass = match figure.target {
            Some(target) if self.judged => Some(target.is_met(figure.value.median, ratio)),
            _ => None,
        };
        if pass == Some(false) {
            self.missed.push(format!("{case}: {}", figure.name));
        }
        let target = figure.target.map(Target::text);
        if self.output.json {
            return self.output.json_line(&Line {
                case,
                figure: &figure.name,
                value: round(figure.value.median),
                unit: figure.unit,
                reference: figure.reference.map(|spread| round(spread.median)),
                ratio: ratio.map(round),
                target,
                pass,
                min: round(figure.value.min),
                max: round(figure.value.max),
            });
        }
        let verdict = pass.map_or("", |pass| if pass { "ok" } else { "MISSED" });
        self.rows.push([
            figure.name,
            number(figure.value.median),
            figure.unit.to_owned(),
            if figure.value.min < figure.value.max {
                format!("{} .. {}", number(figure.value.min), number(figure.value.max))
            } else {
                String::new()
            },
            figure.reference.map(|spread| number(spread.median)).unwrap_or_default(),
            ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            format!("{} {verdict}", target.unwrap_or_default()).trim().to_owned(),
        ]);
        Ok(())
    }

    /// Says one line to people.
    pub fn note(&self, text: &str) -> io::Result<()> {
        self.output.line(text)
    }

    /// The end of a case: its table.
    pub fn end(&mut self, case: &str) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        if self.output.json || rows.is_empty() {
            return Ok(());
        }
        let header = [case, "MEDIAN", "UNIT", "MIN .. MAX", "REFERENCE", "RATIO", "TARGET"];
        self.output.line(format_args!("\n{}", table(header, rows)))
    }

    /// Figures that missed their target.
    pub fn missed(&self) -> &[String] {
        &self.missed
    }
}

/// Four significant digits are more than any of these figures has.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powf(5.0 - value.abs().log10().ceil());
    (value * scale).round() / scale
}

fn number(value: f64) -> String {
    match value.abs() {
        n if n >= 100.0 => format!("{value:.0}"),
        n if n >= 10.0 => format!("{value:.1}"),
        n if n >= 0.1 || n == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_keys_that_scripts_read() {
        let line = Line {
            case: "throughput",
            figure: "tasks",
            value: 1.0,
            unit: "1/s",
            reference: Some(2.0),
            ratio: Some(0.5),
            target: None,
            pass: None,
            min: 1.0,
            max: 1.0,
        };
        let value = serde_json::to_value(&line).unwrap();
        for key in ["case", "figure", "value", "unit", "reference", "ratio", "target", "pass", "min", "max"] {
            assert!(value.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn a_ratio_is_median_to_median_and_a_target_is_judged_by_it() {
        let figure = Figure::over("tasks", "1/s", &[10.0, 30.0, 20.0]).unwrap().against(&[40.0]);
        assert_eq!(figure.ratio(), Some(0.5));
        assert!(Target::RatioAtLeast(0.5).is_met(20.0, figure.ratio()));
        assert!(!Target::RatioAtMost(0.4).is_met(20.0, figure.ratio()));
        assert!(!Target::RatioAtLeast(0.5).is_met(20.0, None), "no reference is no success");
    }

    #[test]
    fn a_missed_target_is_remembered_only_where_targets_are_judged() {
        let missed = |judged| {
            let mut report = Report::new(Output { json: false }, judged);
            let figure = Figure::once("start", "s", 6.0).target(Target::AtMost(5.0));
            report.add("start", figure).unwrap();
            report.missed().len()
        };
        assert_eq!((missed(true), missed(false)), (1, 0));
    }

    #[test]
    fn numbers_keep_the_digits_that_mean_something() {
        assert_eq!([round(12_345.678), round(0.001_234_567), round(0.0)], [12_346.0, 0.001_234_6, 0.0]);
        assert_eq!(
            [number(12_345.6), number(12.34), number(0.5), number(0.0123)],
            ["12346", "12.3", "0.50", "0.0123"]
        );
    }
}
