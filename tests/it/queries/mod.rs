//! The query plane: what a query costs, what it promises, and what becomes of it when things break.

mod cluster;
mod config;
mod keys;
mod labels;
mod plane;
mod reads;
pub mod rebuild;
mod results;
mod scale;
mod watchers;
