//! The documents keep to the code: examples, links, names and walkthroughs are compared with it.
//!
//! `just docs-walkthroughs` writes the recorded parts anew, `just plots` the plots.

mod names;
mod pages;
mod plots;
mod rights;
mod story;
mod walkthroughs;
