//! Messages to tasks, and what a task was told: the query plane's side.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::{Ask, DECISION, Queries, Told, nonsense, not_found};
use crate::{
    bus::Subscription,
    coordinator::calls::OwnerCall,
    task::{Code, MAX_MAIL_MESSAGE, Payload, Refusal, TaskId, TaskKey, TenantName},
    wire::{
        VERSION,
        api::TaskReply,
        codec,
        history::{HistoryPage, HistoryRequest, KeptReply, KeptRequest, TellRequest},
        messages::{Cmd, CmdOp, Done},
        subjects,
    },
};

/// A decision that was not heard of for this long is asked for again, by the same message.
const AGAIN: Duration = Duration::from_millis(900);

impl Queries {
    /// Stores a message and waits for what becomes of it.
    pub(super) async fn tell_task(
        &self,
        tenant: &TenantName,
        request: TellRequest,
        signal: bool,
    ) -> Result<TaskReply, Refusal> {
        if signal != request.name.is_some() {
            let message = if signal { "a signal has a `name`" } else { "with a `name` it is a signal" };
            return Err(Refusal::new(Code::BadQuery, message));
        }
        if request.message.len() > MAX_MAIL_MESSAGE {
            let (actual, limit) = (request.message.len() as u64, MAX_MAIL_MESSAGE as u64);
            let message = format!("the message has {actual} bytes, at most {limit} are taken");
            return Err(Refusal::over(Code::TooLarge, message, actual, limit));
        }
        let TellRequest { task, name, message, from, nonce } = request;
        let nonce = nonce.unwrap_or_else(TaskId::fresh);
        let op = CmdOp::Tell { signal: name, message, from };
        let body = codec::pack(&Cmd { v: VERSION, op });
        let subject = subjects::cmd(tenant, &task, &nonce);
        let mut hints = self.hints(tenant, &task).await?;
        let deadline = Instant::now() + DECISION;
        while Instant::now() < deadline {
            self.publish(&subject, body.clone()).await?;
            match tokio::time::timeout(AGAIN, answer_to(&nonce, &mut hints)).await {
                Err(_) => {}
                Ok(None) => break,
                Ok(Some(Done { refusal: Some(refusal), .. })) => return Err(refusal),
                Ok(Some(done)) => return Ok(TaskReply { task, state: Some(done.state), refusal: None }),
            }
        }
        Ok(TaskReply { task, state: None, refusal: None })
    }

    /// A page of what a task was told and what its handler recorded.
    pub(super) async fn history(
        &self,
        tenant: &TenantName,
        request: HistoryRequest,
    ) -> Result<HistoryPage, Refusal> {
        let HistoryRequest { task, place, after } = request;
        let key = TaskKey { tenant: tenant.clone(), id: task };
        let asked = key.clone();
        let mine = self.owner.ask(|reply| OwnerCall::History { key: asked, place, after, reply }).await?;
        let page = match mine {
            Some(page) => page,
            None => match self.elsewhere(Ask::History(key.clone(), place, after)).await? {
                Told::History(page) => page,
                Told::Refused(refusal) => return Err(refusal),
                _ => return Err(nonsense()),
            },
        };
        page.ok_or_else(|| not_found(&key))
    }

    /// A chunk of a step's large result, as it was published.
    pub(super) async fn kept(&self, tenant: &TenantName, request: KeptRequest) -> Result<KeptReply, Refusal> {
        let KeptRequest { task, hash, chunk } = request;
        match self.objects.chunk(tenant, &task, &hash, chunk).await {
            Ok(Some(bytes)) => Ok(KeptReply { chunk: Payload::Bytes(bytes) }),
            Ok(None) => {
                let message = format!("STEPS has no chunk {chunk} of the object {hash} of {tenant}/{task}");
                Err(Refusal::new(Code::StepLost, message))
            }
            Err(error) => {
                tracing::warn!(%error, "a chunk of a step's result could not be read");
                Err(Refusal::new(Code::Unavailable, format!("STEPS: {error}")).retry_after(1_000))
            }
        }
    }
}

/// What became of the message with this nonce; `None`: nobody will say any more.
async fn answer_to(nonce: &TaskId, hints: &mut Subscription) -> Option<Done> {
    while let Some(hint) = hints.next().await {
        if let (_, Ok(done)) = codec::decode_any::<Done>(None, &hint.payload, usize::MAX)
            && done.nonce.as_ref() == Some(nonce)
        {
            return Some(done);
        }
    }
    None
}
