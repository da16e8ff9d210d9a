//! Where a page ended, as an opaque text for the client.
//!
//! A cursor is the last member that was looked at, bound to the tenant and the filter by a digest.
//! The digest is no secret: it catches a cursor that was cut, mistyped, or belongs to another tenant or
//! list. Somebody who computes one by hand only names a position in a list he may read anyway.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::keys;
use crate::{
    task::{AgentName, Phase, TaskId, TenantName},
    wire::api::ListRequest,
};

const DIGEST_LEN: usize = 8;

/// Which list a cursor belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListId([u8; 32]);

impl ListId {
    /// The list a request asks for; limit and offset don't matter.
    pub fn of(tenant: &TenantName, request: &ListRequest) -> Self {
        let mut states: Vec<Phase> = request.states.clone();
        states.sort();
        states.dedup();
        let mut hash = Sha256::new();
        hash.update(tenant.as_str());
        for state in states {
            hash.update([0]);
            hash.update(state.as_str());
        }
        hash.update([1]);
        hash.update(request.agent.as_ref().map_or("", AgentName::as_str));
        hash.update([2]);
        hash.update(request.root.as_ref().map_or("", TaskId::as_str));
        hash.update([3]);
        hash.update(request.parent.as_ref().map_or("", TaskId::as_str));
        hash.update([4]);
        hash.update(format!("{:?} {:?}", request.since, request.until));
        hash.update(request.labels.hashed());
        Self(hash.finalize().into())
    }

    fn digest(&self, member: &str) -> [u8; DIGEST_LEN] {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(member);
        let full = hash.finalize();
        let mut out = [0; DIGEST_LEN];
        out.copy_from_slice(&full[..DIGEST_LEN]);
        out
    }

    /// The cursor of the position after `member`.
    pub fn after(&self, member: &str) -> String {
        let mut bytes = self.digest(member).to_vec();
        bytes.extend_from_slice(member.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The member a cursor stands after; `None` if it is no cursor of this list.
    pub fn member(&self, cursor: &str) -> Option<String> {
        // 8 + 11 + 63 bytes at most.
        if cursor.len() > 120 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (digest, member) = bytes.split_at_checked(DIGEST_LEN)?;
        let member = std::str::from_utf8(member).ok()?;
        keys::task_of(member)?;
        (self.digest(member) == digest).then(|| member.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_list_only() {
        let acme = TenantName::new("acme").unwrap();
        let member = keys::member(17, &TaskId::new("t").unwrap());
        let mine = ListId::of(&acme, &ListRequest::default());
        let cursor = mine.after(&member);
        assert_eq!(mine.member(&cursor), Some(member));

        let other_tenant = ListId::of(&TenantName::new("umbrella").unwrap(), &ListRequest::default());
        assert_eq!(other_tenant.member(&cursor), None);
        let filtered = ListRequest { states: vec![Phase::Failed], ..ListRequest::default() };
        assert_eq!(ListId::of(&acme, &filtered).member(&cursor), None);
        let other_page = ListRequest { limit: Some(3), ..ListRequest::default() };
        assert!(ListId::of(&acme, &other_page).member(&cursor).is_some());

        for bad in ["", "x", &cursor[1..], &cursor[..cursor.len() - 2], "ä", &"A".repeat(10_000)] {
            assert_eq!(mine.member(bad), None, "{bad}");
        }
    }
}
