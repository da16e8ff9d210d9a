//! What an indexer and the owner's loop say to each other.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::{
    store::index::{Generation, IndexBatch, Mark, Retention},
    task::TenantName,
};

/// What the indexer asks of the owner loop.
#[derive(Debug)]
pub enum IndexAsk {
    /// Gather for this generation from now on. An unanswered [`IndexAsk::Next`] is void: drop its
    /// `reply`, or the tasks sent to it are lost.
    Follow {
        /// Goes into every batch.
        generation: Generation,
        /// Tasks touched after this journal sequence are dirty (`Dirty::prune`); `None`: all of them are, with their results
        /// (`Engine::touch_all`).
        from: Option<u64>,
        /// The owner's answer.
        reply: oneshot::Sender<FollowReply>,
    },
    /// Hand out work as soon as there is some; the first time after a [`IndexAsk::Follow`] at once, even
    /// if there is none, so that an index of no tasks is known to be complete. Dropping `reply` says that
    /// the owner is done for good.
    Next {
        /// Tasks at most.
        max: usize,
        /// Bytes of results at most; a batch has at least one task.
        max_bytes: usize,
        /// Tasks first touched after this stay for the next time, unless there are no others.
        until: Option<Mark>,
        /// Kept until a task is dirty.
        reply: oneshot::Sender<IndexBatch>,
    },
    /// What the index keeps of these tenants' ended tasks.
    Retention {
        /// Whose.
        tenants: Vec<TenantName>,
        /// The owner's answer.
        reply: oneshot::Sender<HashMap<TenantName, Retention>>,
    },
    /// Everything up to here is in the index.
    Written {
        /// Of which index.
        generation: Generation,
        /// See [`IndexBatch::upto_seq`].
        upto_seq: u64,
    },
}

/// What the owner says to [`IndexAsk::Follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowReply {
    /// The dirty set is as asked for.
    Following,
    /// It can't name every task touched since then: begin anew.
    TooOld,
}
