//! A handler whose panics end itself and nothing else, wherever it panics: while it is called, while it runs,
//! while it is dropped.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use super::AgentError;
use crate::task::Payload;

/// How a handler ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself.
    Returned(Result<Payload, AgentError>),
    /// With this message.
    Panicked(String),
    /// By its attempt, before it was done.
    Dropped,
}

/// See the module.
pub(super) enum Caught<F> {
    Handler(F),
    /// It panicked before there was anything to poll.
    Panicked(String),
}

impl<P, F> Caught<Pin<P>>
where
    P: std::ops::DerefMut<Target = F>,
    F: Future<Output = Result<Payload, AgentError>> + ?Sized,
{
    /// What `call` returns.
    pub(super) fn new(call: impl FnOnce() -> Pin<P>) -> Self {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(handler) => Self::Handler(handler),
            Err(panic) => Self::Panicked(message(&*panic)),
        }
    }

    /// Not to be polled again once it is ready.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        match self {
            Self::Handler(handler) => match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
                Ok(polled) => polled.map(Ended::Returned),
                Err(panic) => Poll::Ready(Ended::Panicked(message(&*panic))),
            },
            Self::Panicked(text) => Poll::Ready(Ended::Panicked(std::mem::take(text))),
        }
    }

    /// Drops what is left of it after it has `ended`; that may change how it did.
    pub(super) fn drop_after(self, ended: Ended) -> Ended {
        match catch_unwind(AssertUnwindSafe(|| drop(self))) {
            Ok(()) => ended,
            Err(panic) => Ended::Panicked(message(&*panic)),
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Boxed = Pin<Box<dyn Future<Output = Result<Payload, AgentError>>>>;

    async fn ended(call: impl FnOnce() -> Boxed) -> Ended {
        let mut caught = Caught::new(call);
        let ended = std::future::poll_fn(|cx| caught.poll(cx)).await;
        caught.drop_after(ended)
    }

    fn text(ended: Ended) -> String {
        match ended {
            Ended::Panicked(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Panics when it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("boom at the end");
        }
    }

    #[tokio::test]
    async fn a_panic_is_caught_wherever_it_comes() {
        assert_eq!(text(ended(|| panic!("boom at once")).await), "boom at once");
        assert_eq!(text(ended(|| Box::pin(async { panic!("boom {}", 1) })).await), "boom 1");
        assert_eq!(text(ended(|| Box::pin(async { std::panic::panic_any(5) })).await), "no message");
        let later = || -> Boxed {
            Box::pin(async {
                tokio::task::yield_now().await;
                panic!("boom later")
            })
        };
        assert_eq!(text(ended(later).await), "boom later");
        let dropped = Caught::new(|| -> Boxed {
            let bomb = Bomb;
            Box::pin(async move {
                let _bomb = bomb;
                std::future::pending().await
            })
        });
        assert_eq!(text(dropped.drop_after(Ended::Dropped)), "boom at the end");
    }

    #[tokio::test]
    async fn one_that_does_not_panic_ends_as_it_says() {
        let result = ended(|| Box::pin(async { Ok(Payload::default()) })).await;
        assert!(matches!(result, Ended::Returned(Ok(_))), "{result:?}");
        let error = ended(|| Box::pin(async { Err(AgentError::fatal("no")) })).await;
        assert!(matches!(error, Ended::Returned(Err(_))), "{error:?}");
    }
}
