//! What can be wrong with a configuration, told with its place and a way out.

use std::fmt;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode, SourceSpan};

/// The text of a configuration file with its secrets masked, ready to be quoted in a message.
#[derive(Debug)]
pub(super) struct Source {
    pub name: String,
    pub text: String,
}

impl Source {
    /// Line and column of a byte, counted from 1.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
        (line, column)
    }
}

/// One mistake.
#[derive(Debug, Clone)]
pub struct Problem {
    code: &'static str,
    message: String,
    place: String,
    help: Option<String>,
    quote: Option<(Arc<NamedSource<String>>, SourceSpan, String)>,
}

impl Problem {
    pub(super) fn new(code: &'static str, message: impl Into<String>, place: impl Into<String>) -> Self {
        Problem { code, message: message.into(), place: place.into(), help: None, quote: None }
    }

    pub(super) fn in_file(
        code: &'static str,
        message: impl Into<String>,
        source: &Source,
        span: std::ops::Range<usize>,
        label: &str,
    ) -> Self {
        let (line, column) = source.position(span.start);
        let named = NamedSource::new(&source.name, source.text.clone()).with_language("toml");
        let mut problem = Problem::new(code, message, format!("{}:{line}:{column}", source.name));
        problem.quote = Some((Arc::new(named), span.into(), label.to_owned()));
        problem
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The stable code, one of `CONFIG_*`.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Where it is: `file:line:column`, a variable, a flag.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What to do about it, if that is known.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.quote.as_ref().map(|(source, _, _)| &**source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, span, label) = self.quote.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some(label.clone()), *span))))
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// The mistakes, in the order of the file where they stand in one.
    pub problems: Vec<Problem>,
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        ConfigError { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {problem}", problem.place)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
