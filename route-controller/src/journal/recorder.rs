//! Takes log events into the journal, whatever the log's own filter is.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::entry::{Change, Severity};
use super::kinds::kind_of;

/// The field with the name of an event.
const EVENT: &str = "event";
/// Fields with what an event is about; the first that is there.
const SUBJECTS: [&str; 13] = [
    "peer",
    "pod",
    "service",
    "prefix",
    "policy",
    "subject",
    "interface",
    "neighbor",
    "next_hop",
    "setting",
    "field",
    "file",
    "node",
];
/// Fields with the cause.
const CAUSES: [&str; 3] = ["reason", "why", "error"];

pub(crate) struct Recorder;

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        if let Some(change) = fields.change(level) {
            super::record(change);
        }
    }
}

/// The filter of [`Recorder`]: events of podroute that have a name, traces excepted.
pub(crate) fn is_recorded(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::DEBUG && metadata.fields().field(EVENT).is_some()
}

#[derive(Default)]
struct Fields {
    event: String,
    message: String,
    cause: Option<String>,
    subjects: Vec<(&'static str, String)>,
    others: String,
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        let name = field.name();
        match name {
            EVENT => self.event = value,
            "message" => self.message = value,
            _ if CAUSES.contains(&name) => self.cause = Some(value),
            _ if SUBJECTS.contains(&name) => self.subjects.push((name, value)),
            _ if value.is_empty() => {}
            _ => {
                let _ = write!(
                    self.others,
                    "{}{name} {value}",
                    if self.others.is_empty() { "" } else { ", " }
                );
            }
        }
    }

    fn change(mut self, level: Level) -> Option<Change> {
        let kind = kind_of(&self.event)?;
        let rank = |name: &str| SUBJECTS.iter().position(|known| *known == name);
        self.subjects.sort_by_key(|(name, _)| rank(name));
        let mut subjects = self.subjects.into_iter();
        let subject = subjects.next().map(|(_, value)| value);
        let mut message = self.message;
        for (name, value) in subjects {
            let _ = write!(message, "; {name} {value}");
        }
        if !self.others.is_empty() {
            let _ = write!(message, " ({})", self.others);
        }
        Some(Change {
            kind,
            severity: match level {
                Level::ERROR => Severity::Error,
                Level::WARN => Severity::Warn,
                _ => Severity::Info,
            },
            event: self.event,
            subject,
            message,
            cause: self.cause,
            count: 1,
            flaps: None,
        })
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::super::entry::Kind;
    use super::*;

    struct Collect(Arc<Mutex<Vec<Change>>>);

    impl<S: Subscriber> Layer<S> for Collect {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            if !is_recorded(event.metadata()) {
                return;
            }
            let mut fields = Fields::default();
            event.record(&mut fields);
            self.0
                .lock()
                .unwrap()
                .extend(fields.change(*event.metadata().level()));
        }
    }

    #[test]
    fn an_event_of_the_log_becomes_an_entry() {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Collect(Arc::clone(&changes)));
        tracing::subscriber::with_default(subscriber, || {
            let why = "hold timer expired";
            tracing::warn!(event = "session_down", peer = %"tor-a", reason = %why, retained = "ipv4", "BGP session down");
            tracing::debug!(event = "pod_added", pod = "default/web", "added");
            tracing::trace!(event = "session_up", "not recorded");
            tracing::info!(event = "policy_drop", "not kept");
            tracing::event!(Level::INFO, "without a name");
        });
        let changes = changes.lock().unwrap();
        let [down, added] = &changes[..] else {
            panic!("{changes:?}")
        };
        let expected = Change {
            kind: Kind::Session,
            severity: Severity::Warn,
            event: "session_down".to_owned(),
            subject: Some("tor-a".to_owned()),
            message: "BGP session down (retained ipv4)".to_owned(),
            cause: Some("hold timer expired".to_owned()),
            count: 1,
            flaps: None,
        };
        assert_eq!(*down, expected);
        assert_eq!((added.kind, added.severity), (Kind::Pod, Severity::Info));
    }
}
