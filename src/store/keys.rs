//! Every key, in one place, and how each kind is bounded.
//!
//! Keys carry the tenant (or the shard) as hash tag, so that everything a script touches lies on one
//! node of a Redis Cluster. Names are `[a-z0-9][a-z0-9_-]{0,62}`: no name can hold a brace, a colon or
//! a glob character, so keys need no quoting and a pattern can't reach another tenant.
//!
//! | key | type | holds | bounded by |
//! |---|---|---|---|
//! | `sv:{<tenant>}:i:meta` | hash | generation, epoch, flush, seq, retention | one per tenant with tasks; 1 h TTL once it has none |
//! | `sv:{<tenant>}:i:t` | hash | by task: its record ([`super::record`]), with a small result in it | live + retained tasks |
//! | `sv:{<tenant>}:i:x` | hash | by task: its result, if that is large | retained tasks |
//! | `sv:{<tenant>}:i:shown` | sorted set | all but cancelled | live + retained tasks |
//! | `sv:{<tenant>}:i:s:<state>` | sorted set | by state | as above |
//! | `sv:{<tenant>}:i:a:<agent>` | sorted set | by agent, without cancelled | as above |
//! | `sv:{<tenant>}:i:r:<root>` | sorted set | a tree of two or more, without cancelled | as above |
//! | `sv:{<tenant>}:i:p:<parent>` | sorted set | a task's children, without cancelled | as above |
//! | `sv:{<tenant>}:i:done` | sorted set | ids of terminal tasks by end, what retention works on | retained tasks |
//! | `sv:{shard-<n>}:i` | hash | layout, generation, epoch, flush, seq: the restart point; at: until when it shows everything | one per shard |
//! | `sv:{shard-<n>}:due` | sorted set | tenants by the time their oldest terminal task is due to go | tenants with terminal tasks |
//! | `sv:{<tenant>}:e:<task>` | stream | events | MAXLEN, sliding TTL |
//!
//! Every task, cancelled ones too, is the union of `shown` and `s:cancelled`: no set of its own.
//!
//! Nothing of the index expires by itself: what is in the sets and what is in the hashes goes in one and the
//! same script. For a tenant that nobody writes to any more, the indexer's sweep does that (`due` says when),
//! so that idle tenants shrink to nothing too.
//!
//! Members of the sets have score 0 and sort by text: `<created_at as 11 hex digits><task>`. That
//! order is total (tasks created in the same millisecond have a fixed order), so that a cursor is a
//! member and a page after it costs O(log n) whatever was inserted or removed meanwhile.

use crate::{
    task::{AgentName, Millis, Phase, TaskId, TaskKey, TenantName},
    wire::subjects::Shard,
};

/// Hex digits of `created_at` at the start of a member: enough until the year 2527.
pub const STAMP_LEN: usize = 11;

const STAMP_MAX: Millis = (1 << (4 * STAMP_LEN)) - 1;

/// Matches every key of the index, of every tenant and shard; event streams are not among them.
pub const INDEX_PATTERN: &str = "sv:{*}:i:*";

/// Start of every index key of a tenant; the script appends the rest.
pub fn index_prefix(tenant: &TenantName) -> String {
    format!("sv:{{{tenant}}}:i:")
}

/// See the module's table.
pub fn meta(tenant: &TenantName) -> String {
    format!("{}meta", index_prefix(tenant))
}

/// See the module's table.
pub fn records(tenant: &TenantName) -> String {
    format!("{}t", index_prefix(tenant))
}

/// See the module's table.
pub fn results(tenant: &TenantName) -> String {
    format!("{}x", index_prefix(tenant))
}

/// See the module's table.
pub fn shown(tenant: &TenantName) -> String {
    format!("{}shown", index_prefix(tenant))
}

/// See the module's table.
pub fn state(tenant: &TenantName, state: Phase) -> String {
    format!("{}s:{state}", index_prefix(tenant))
}

/// See the module's table.
pub fn agent(tenant: &TenantName, agent: &AgentName) -> String {
    format!("{}a:{agent}", index_prefix(tenant))
}

/// See the module's table.
pub fn tree(tenant: &TenantName, root: &TaskId) -> String {
    format!("{}r:{root}", index_prefix(tenant))
}

/// See the module's table.
pub fn parent(tenant: &TenantName, parent: &TaskId) -> String {
    format!("{}p:{parent}", index_prefix(tenant))
}

/// See the module's table.
pub fn done(tenant: &TenantName) -> String {
    format!("{}done", index_prefix(tenant))
}

/// The restart point of a shard's indexer. Not an index key: a wipe ends by writing it.
pub fn restart_point(shard: Shard) -> String {
    format!("sv:{{shard-{}}}:i", shard.0)
}

/// Tenants by when their oldest terminal task is to go.
pub fn due(shard: Shard) -> String {
    format!("sv:{{shard-{}}}:due", shard.0)
}

/// A task's events.
pub fn events(key: &TaskKey) -> String {
    format!("sv:{{{}}}:e:{}", key.tenant, key.id)
}

/// The tenant an index key belongs to; `None` for keys that are none of ours.
pub fn tenant_of_index_key(key: &str) -> Option<TenantName> {
    let (tenant, rest) = key.strip_prefix("sv:{")?.split_once('}')?;
    rest.starts_with(":i:").then(|| TenantName::new(tenant).ok()).flatten()
}

/// What a key of ours is; by its name alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A shard's restart point, or the order in which its tenants' tasks are due.
    OfShard,
    /// A task's events.
    Events,
    /// A tenant's meta hash.
    Meta(TenantName),
    /// A hash of a tenant's tasks: records or results.
    Hash(TenantName),
    /// A sorted set of a tenant's tasks.
    Set(TenantName),
    /// None that this version writes.
    Unknown,
}

/// Matches every key of ours.
pub const OUR_PATTERN: &str = "sv:{*}:*";

/// See [`Kind`].
pub fn kind(key: &str) -> Kind {
    let Some((tag, rest)) = key.strip_prefix("sv:{").and_then(|rest| rest.split_once("}:")) else {
        return Kind::Unknown;
    };
    let shard = tag.strip_prefix("shard-").is_some_and(|n| n.parse::<u16>().is_ok());
    if shard && (rest == "i" || rest == "due") {
        return Kind::OfShard;
    }
    let Ok(tenant) = TenantName::new(tag) else { return Kind::Unknown };
    if rest.strip_prefix("e:").is_some_and(|task| TaskId::new(task).is_ok()) {
        return Kind::Events;
    }
    match rest.strip_prefix("i:").map(|rest| rest.split_once(':').unwrap_or((rest, ""))) {
        Some(("meta", "")) => Kind::Meta(tenant),
        Some(("t" | "x", "")) => Kind::Hash(tenant),
        Some(("shown" | "done", "")) => Kind::Set(tenant),
        Some(("s", state)) if Phase::parse(state).is_some() => Kind::Set(tenant),
        Some(("a", agent)) if AgentName::new(agent).is_ok() => Kind::Set(tenant),
        Some(("r" | "p", task)) if TaskId::new(task).is_ok() => Kind::Set(tenant),
        _ => Kind::Unknown,
    }
}

/// The leading part of a member, from `created_at`: sorts by time.
pub struct Stamp(pub Millis);

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:011x}", self.0.min(STAMP_MAX))
    }
}

/// A member of the sorted sets.
pub fn member(created_at: Millis, task: &TaskId) -> String {
    format!("{}{task}", Stamp(created_at))
}

/// The task a member stands for; `None` if it is no member.
pub fn task_of(member: &str) -> Option<TaskId> {
    let (stamp, task) = member.split_at_checked(STAMP_LEN)?;
    let hex = stamp.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    hex.then(|| TaskId::new(task).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        TenantName::new(name).unwrap()
    }

    #[test]
    fn no_name_can_leave_its_hash_tag() {
        for nasty in ["a}:i:b", "{a}", "a*", "a:b", "a\nb", "[ab]", "a?", "", "A"] {
            assert!(TenantName::new(nasty).is_err(), "{nasty:?}");
        }
        let task = TaskId::new("t-1").unwrap();
        assert_eq!(tree(&tenant("acme"), &task), "sv:{acme}:i:r:t-1");
        assert_eq!(events(&TaskKey { tenant: tenant("acme"), id: task }), "sv:{acme}:e:t-1");
    }

    #[test]
    fn a_wipe_knows_index_keys_from_events_and_restart_points() {
        let t = tenant("acme");
        for key in [meta(&t), records(&t), state(&t, Phase::Queued), shown(&t)] {
            assert_eq!(tenant_of_index_key(&key), Some(t.clone()), "{key}");
        }
        let key = TaskKey { tenant: t, id: TaskId::new("i").unwrap() };
        for key in [events(&key), restart_point(Shard(0)), due(Shard(0)), "sv:{A}:i:x".to_owned()] {
            assert_eq!(tenant_of_index_key(&key), None, "{key}");
        }
    }

    #[test]
    fn every_key_that_is_written_has_a_kind_and_others_have_none() {
        let (t, task) = (tenant("acme"), TaskId::new("t-1").unwrap());
        let of = |key: String| kind(&key);
        assert_eq!(of(meta(&t)), Kind::Meta(t.clone()));
        for key in [records(&t), results(&t)] {
            assert_eq!(of(key), Kind::Hash(t.clone()));
        }
        let agent = agent(&t, &AgentName::new("a").unwrap());
        for key in [shown(&t), done(&t), state(&t, Phase::Failed), agent, tree(&t, &task), parent(&t, &task)]
        {
            assert_eq!(of(key), Kind::Set(t.clone()));
        }
        assert_eq!(of(events(&TaskKey { tenant: t, id: task })), Kind::Events);
        assert_eq!((of(restart_point(Shard(0))), of(due(Shard(3)))), (Kind::OfShard, Kind::OfShard));
        for key in
            ["sv:{acme}:i:q", "sv:{acme}:i:s:asleep", "sv:{acme}:x", "sv:{A}:i:t", "sv:acme", "sv:{acme}:e:"]
        {
            assert_eq!(kind(key), Kind::Unknown, "{key}");
        }
    }

    #[test]
    fn a_tenant_called_like_a_shard_shares_no_key_with_it() {
        let t = tenant("shard-0");
        for key in [meta(&t), records(&t), shown(&t)] {
            assert_ne!(key, restart_point(Shard(0)));
            assert_ne!(key, due(Shard(0)));
        }
    }

    #[test]
    fn members_sort_by_time_then_id_and_parse_back() {
        let id = |t: &str| TaskId::new(t).unwrap();
        let mut members =
            [member(200, &id("a")), member(100, &id("b")), member(100, &id("a")), member(1 << 40, &id("0"))];
        members.sort();
        let tasks: Vec<String> = members.iter().map(|m| task_of(m).unwrap().to_string()).collect();
        assert_eq!(tasks, ["a", "b", "a", "0"]);
        for bad in ["", "0000", "0000000000z1", "00000000001", "0000000000aA"] {
            assert_eq!(task_of(bad), None, "{bad}");
        }
    }
}
