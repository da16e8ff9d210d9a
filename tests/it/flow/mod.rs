//! The way of a task, end to end on real servers.

mod happy;
mod times;
