//! Documents, each gathered once for all who look at it, and no more often than it is good for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::{Source, View};

/// A document, or why there is none, as a text that is compared to see a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Gathered(pub(crate) Result<Arc<str>, Arc<str>>);

/// What was gathered last.
#[derive(Default)]
struct Slot(Mutex<Option<(Instant, Gathered)>>);

/// The source with what it said last.
pub(crate) struct Hub<S> {
    source: S,
    slots: BTreeMap<View, Slot>,
}

impl<S: Source> Hub<S> {
    pub(crate) fn new(source: S) -> Self {
        let slots = View::ALL.map(|view| (view, Slot::default()));
        Self {
            source,
            slots: slots.into(),
        }
    }

    /// How often it is worth asking.
    pub(crate) fn max_age(&self) -> Duration {
        self.source.max_age()
    }

    /// A document that is not older than its time. Those who ask while it is being gathered wait for the same one.
    pub(crate) async fn get(&self, view: View) -> Gathered {
        let Some(slot) = self.slots.get(&view) else {
            return Gathered(Err("no such view".into()));
        };
        let mut slot = slot.0.lock().await;
        if let Some((at, gathered)) = slot.as_ref()
            && at.elapsed() < self.source.max_age()
        {
            return gathered.clone();
        }
        let gathered = Gathered(match self.source.document(view).await {
            Ok(document) => Ok(text(&document)),
            Err(error) => Err(error.to_string().into()),
        });
        *slot = Some((Instant::now(), gathered.clone()));
        gathered
    }
}

fn text(document: &Value) -> Arc<str> {
    document.to_string().into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Source for Counting {
        type Error = String;

        async fn document(&self, view: View) -> Result<Value, String> {
            let number = self.0.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(json!({"items": [number, view.name()]}))
        }

        fn max_age(&self) -> Duration {
            Duration::from_secs(5)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_readers_cost_one_question() {
        let hub = Hub::new(Counting::default());
        let readers = (0..100).map(|_| hub.get(View::Peers));
        let answers = futures::future::join_all(readers).await;
        assert!(answers.iter().all(|answer| answer == &answers[0]));
        assert_eq!(hub.source.0.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_ne!(hub.get(View::Peers).await, answers[0]);
        hub.get(View::Routes).await;
        assert_eq!(hub.source.0.load(Ordering::SeqCst), 3);
    }
}
