//! Pages that many ask for: answers kept for a moment, one read at a time for each question.
//!
//! ```text
//! same tenant, verb, encoding and body?   age <= FRESH, no commit since  ──▶ the answer as it is
//!                                         age <= STALE, no commit since  ──▶ the answer as it is, and a read behind it
//!                                         else                           ──▶ whoever comes waits for one read
//! ```
//!
//! The indexer of this process says which tenants it has written ([`Hot::committed`]): their answers are not used any
//! more, nobody else's are touched. What another coordinator writes shows after [`STALE`] at the latest. A read that was
//! under way when its tenant was written counts as one from before. Refusals are handed to those who wait for them and
//! never kept. Memory is bounded in bytes; what does not fit is read each time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, future::Shared};
use metrics::Counter;
use tokio::runtime::Handle;

use crate::{
    bus::service::{Answer, Query},
    task::TenantName,
    telemetry::names,
    wire::Format,
};

/// An answer of this age is used without a second thought.
pub const FRESH: Duration = Duration::from_millis(100);
/// No answer is older than this.
pub const STALE: Duration = Duration::from_millis(250);
/// Bytes of all answers and questions at most.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Longer questions than this are not kept: no list asks for so much.
const MAX_QUESTION: usize = 1_024;
/// Questions between two looks for what can go.
const SWEEP_EVERY: u64 = 1_024;
/// What a page costs beside its bytes, roughly.
const OVERHEAD: usize = 256;

type Reading = Shared<BoxFuture<'static, Answer>>;

/// Who asks what, encoded how.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    verb: &'static str,
    json: bool,
    body: Bytes,
}

impl Question {
    fn of(query: &Query) -> Self {
        Self { verb: query.verb, json: query.format == Format::Json, body: query.body.clone() }
    }
}

/// What is known of one question.
#[derive(Default)]
struct Page {
    kept: Option<Kept>,
    /// One under way, and how often the tenant had been written when it began.
    reading: Option<(u64, Reading)>,
}

struct Kept {
    body: Bytes,
    /// When it was begun to be read.
    read_at: Instant,
    /// How often the tenant had been written by then.
    version: u64,
}

#[derive(Default)]
struct Tenant {
    version: u64,
    pages: HashMap<Question, Page>,
}

#[derive(Default)]
struct Pages {
    tenants: HashMap<TenantName, Tenant>,
    bytes: usize,
    /// How many questions were asked: now and then whatever is of no use goes.
    asked: u64,
}

/// See the module. Cheap to clone; clones share everything.
#[derive(Clone, Default)]
pub struct Hot(Arc<Inner>);

struct Inner {
    pages: Mutex<Pages>,
    /// Looked up once: most answers cost little more than a look-up.
    kept: Counter,
    read: Counter,
}

impl Default for Inner {
    fn default() -> Self {
        let counter = |how| metrics::counter!(names::HOT_PAGES, names::OUTCOME => how);
        Self { pages: Mutex::default(), kept: counter("kept"), read: counter("read") }
    }
}

/// A read goes on without whoever began it: left half done it would be old news to the next who asks. Bounded by the
/// store's own timeouts.
struct Begun(Reading);

impl Drop for Begun {
    fn drop(&mut self) {
        if self.0.peek().is_none()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(self.0.clone());
        }
    }
}

/// What is to be done about a question.
enum Found {
    Use(Bytes),
    UseAndRefresh(Bytes, Reading),
    Read(Reading),
    Wait(Reading),
}

impl Hot {
    /// The answer to `query`, if it is kept and fresh.
    pub fn fresh(&self, query: &Query) -> Option<Bytes> {
        if query.body.len() > MAX_QUESTION {
            return None;
        }
        let pages = self.lock();
        let of = pages.tenants.get(&query.tenant)?;
        let kept = of.pages.get(&Question::of(query))?.kept.as_ref()?;
        (kept.version == of.version && kept.read_at.elapsed() <= FRESH).then(|| kept.body.clone())
    }

    /// The answer to `query`: kept, or by `read`, which is called once for all who ask meanwhile.
    pub async fn page<F>(&self, query: &Query, read: impl FnOnce() -> F) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        if query.body.len() > MAX_QUESTION {
            return read().await;
        }
        match self.find(&query.tenant, &Question::of(query), || read().boxed()) {
            Found::Use(body) => {
                self.0.kept.increment(1);
                Ok(body)
            }
            Found::UseAndRefresh(body, reading) => {
                tokio::spawn(reading);
                self.0.kept.increment(1);
                Ok(body)
            }
            Found::Read(reading) => {
                let _begun = Begun(reading.clone());
                self.0.read.increment(1);
                reading.await
            }
            Found::Wait(reading) => {
                self.0.read.increment(1);
                reading.await
            }
        }
    }

    /// These tenants' answers are of the past.
    pub fn committed<'a>(&self, tenants: impl Iterator<Item = &'a TenantName>) {
        let mut pages = self.lock();
        for name in tenants {
            if let Some(tenant) = pages.tenants.get_mut(name) {
                tenant.version += 1;
            }
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        // Held for a few instructions; what it guards is good after any panic.
        self.0.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(
        &self,
        tenant: &TenantName,
        question: &Question,
        read: impl FnOnce() -> BoxFuture<'static, Answer>,
    ) -> Found {
        let mut pages = self.lock();
        pages.asked += 1;
        if pages.asked.is_multiple_of(SWEEP_EVERY) {
            pages.sweep();
        }
        let of = pages.tenants.entry(tenant.clone()).or_default();
        let version = of.version;
        let page = of.pages.entry(question.clone()).or_default();
        let kept = page.kept.as_ref().filter(|kept| kept.version == version);
        let (kept, age) = match kept.map(|kept| (kept.body.clone(), kept.read_at.elapsed())) {
            Some((body, age)) if age <= STALE => (Some(body), age),
            _ => (None, STALE),
        };
        if let Some(body) = kept.clone().filter(|_| age <= FRESH) {
            return Found::Use(body);
        }
        // A reading from before the last commit would bring what is past.
        let running =
            page.reading.as_ref().filter(|(began, _)| *began == version).map(|(_, reading)| reading.clone());
        match (running, kept) {
            (Some(_), Some(body)) => Found::Use(body),
            (Some(reading), None) => Found::Wait(reading),
            (None, kept) => {
                let reading = self.reading(tenant.clone(), question.clone(), version, read());
                page.reading = Some((version, reading.clone()));
                kept.map_or(Found::Read(reading.clone()), |body| Found::UseAndRefresh(body, reading))
            }
        }
    }

    /// One read, kept when it is done.
    fn reading(
        &self,
        tenant: TenantName,
        question: Question,
        version: u64,
        read: BoxFuture<'static, Answer>,
    ) -> Reading {
        let hot = Arc::downgrade(&self.0);
        let reading = async move {
            let read_at = Instant::now();
            let answer = read.await;
            if let Some(pages) = hot.upgrade() {
                Hot(pages).keep(&tenant, question, version, read_at, answer.as_ref().ok());
            }
            answer
        };
        reading.boxed().shared()
    }

    fn keep(
        &self,
        tenant: &TenantName,
        question: Question,
        version: u64,
        read_at: Instant,
        body: Option<&Bytes>,
    ) {
        let mut pages = self.lock();
        pages.forget(tenant, &question, version);
        let Some(body) = body else { return };
        let size = body.len() + question.body.len() + OVERHEAD;
        if pages.bytes + size > MAX_BYTES {
            pages.sweep();
        }
        if pages.bytes + size > MAX_BYTES {
            return;
        }
        let Some(of) = pages.tenants.get_mut(tenant) else { return };
        let page = of.pages.entry(question).or_default();
        page.kept = Some(Kept { body: body.clone(), read_at, version });
        pages.bytes += size;
    }
}

impl Pages {
    /// Takes out what is kept of a question, and the reading that brought something newer.
    fn forget(&mut self, tenant: &TenantName, question: &Question, version: u64) {
        let Some(page) = self.tenants.get_mut(tenant).and_then(|of| of.pages.get_mut(question)) else {
            return;
        };
        if page.reading.as_ref().is_some_and(|(began, _)| *began == version) {
            page.reading = None;
        }
        if let Some(kept) = page.kept.take() {
            self.bytes -= kept.body.len() + question.body.len() + OVERHEAD;
        }
        if page.reading.is_none()
            && let Some(of) = self.tenants.get_mut(tenant)
        {
            of.pages.remove(question);
        }
    }

    /// Drops whatever can't be used any more.
    fn sweep(&mut self) {
        let mut bytes = 0;
        self.tenants.retain(|_, of| {
            let version = of.version;
            of.pages.retain(|question, page| {
                page.kept.take_if(|kept| kept.version != version || kept.read_at.elapsed() > STALE);
                bytes +=
                    page.kept.as_ref().map_or(0, |kept| kept.body.len() + question.body.len() + OVERHEAD);
                // A reading that nobody waits for any more goes nowhere.
                page.reading.take_if(|(_, reading)| reading.strong_count().is_none_or(|holders| holders < 2));
                page.kept.is_some() || page.reading.is_some()
            });
            !of.pages.is_empty()
        });
        self.bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::task::{Code, Refusal};

    struct Reads {
        hot: Hot,
        done: Arc<AtomicU64>,
        /// One permit lets one read go on.
        gate: Arc<Semaphore>,
    }

    impl Reads {
        fn new(open: usize) -> Self {
            Self { hot: Hot::default(), done: Arc::default(), gate: Arc::new(Semaphore::new(open)) }
        }

        fn ask(&self, tenant: &str, body: &'static str) -> impl Future<Output = Answer> + use<> {
            let query = Query {
                tenant: TenantName::new(tenant).unwrap(),
                verb: "list",
                format: Format::Json,
                body: Bytes::from_static(body.as_bytes()),
            };
            let (hot, done, gate) = (self.hot.clone(), self.done.clone(), self.gate.clone());
            async move {
                let read = move || {
                    let (done, gate) = (done.clone(), gate.clone());
                    async move {
                        gate.acquire().await.unwrap().forget();
                        let n = done.fetch_add(1, Ordering::Relaxed) + 1;
                        Ok(Bytes::from(n.to_string()))
                    }
                };
                hot.page(&query, read).await
            }
        }

        fn commit(&self, tenant: &str) {
            self.hot.committed(std::iter::once(&TenantName::new(tenant).unwrap()));
        }
    }

    #[tokio::test]
    async fn a_hundred_who_ask_the_same_share_one_read() {
        let reads = Reads::new(0);
        let all = futures_util::future::join_all((0..100).map(|_| reads.ask("acme", "{}")));
        let (answers, ()) = tokio::join!(all, async { reads.gate.add_permits(1) });
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == "1"));
        assert_eq!(reads.done.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_commit_ends_its_own_tenants_answers_and_no_others() {
        let reads = Reads::new(100);
        assert_eq!(reads.ask("acme", "{}").await.unwrap(), "1");
        assert_eq!(reads.ask("beta", "{}").await.unwrap(), "2");
        reads.commit("acme");
        assert_eq!(reads.ask("acme", "{}").await.unwrap(), "3");
        assert_eq!(reads.ask("beta", "{}").await.unwrap(), "2");
    }

    #[tokio::test]
    async fn a_read_that_a_commit_overtook_is_used_by_nobody_who_comes_later() {
        let reads = Reads::new(0);
        let (early, later) = (reads.ask("acme", "{}"), reads.ask("acme", "{}"));
        let story = async {
            reads.commit("acme");
            reads.gate.add_permits(2);
            later.await
        };
        let (early, later) = tokio::join!(early, story);
        assert_ne!(early.unwrap(), later.unwrap(), "each read for itself");
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_the_read_to_the_others() {
        let reads = Reads::new(0);
        let mut first = Box::pin(reads.ask("acme", "{}"));
        assert!(first.as_mut().now_or_never().is_none());
        let second = reads.ask("acme", "{}");
        drop(first);
        reads.gate.add_permits(1);
        assert_eq!(second.await.unwrap(), "1");
    }

    /// Left half done, it would tell the next who asks, however much later, what was when it began.
    #[tokio::test]
    async fn a_read_comes_to_its_end_when_everybody_has_given_up() {
        let reads = Reads::new(0);
        let mut only = Box::pin(reads.ask("acme", "{}"));
        assert!(only.as_mut().now_or_never().is_none());
        drop(only);
        reads.gate.add_permits(1);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(reads.done.load(Ordering::Relaxed), 1, "nobody has asked since");
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_not_kept() {
        let hot = Hot::default();
        let query = Query {
            tenant: TenantName::new("a").unwrap(),
            verb: "list",
            format: Format::Json,
            body: Bytes::new(),
        };
        let no = || async { Err(Refusal::new(Code::Unavailable, "no")) };
        assert!(hot.page(&query, no).await.is_err());
        let yes = || async { Ok(Bytes::from_static(b"yes")) };
        assert_eq!(hot.page(&query, yes).await.unwrap(), "yes");
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_in_bytes() {
        let hot = Hot::default();
        for n in 0..200u32 {
            let query = Query {
                tenant: TenantName::new(format!("t{n}")).unwrap(),
                verb: "list",
                format: Format::Json,
                body: Bytes::new(),
            };
            hot.page(&query, || async { Ok(Bytes::from(vec![0; 512 * 1024])) }).await.unwrap();
            assert!(hot.bytes() <= MAX_BYTES);
        }
        assert!(hot.bytes() > 0);
    }
}
