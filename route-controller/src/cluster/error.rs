//! Errors of the API server for people: what it said, with each cause once.

use kube::core::Status;
use kube::runtime::watcher;

/// The API server's own words; a remedy where a right is missing.
pub(crate) fn in_words(error: &kube::Error) -> String {
    with_remedy(match error {
        kube::Error::Api(status) => of_status(status),
        other => with_causes(other),
    })
}

/// The same of a watch.
pub(super) fn of_watch(error: &watcher::Error) -> String {
    let (what, text) = match error {
        watcher::Error::InitialListFailed(error) => ("cannot list", in_words(error)),
        watcher::Error::WatchStartFailed(error) => ("cannot watch", in_words(error)),
        watcher::Error::WatchFailed(error) => ("the watch ended", in_words(error)),
        watcher::Error::WatchError(status) => ("the watch ended", with_remedy(of_status(status))),
        other => return with_causes(other),
    };
    format!("{what}: {text}")
}

fn of_status(status: &Status) -> String {
    let message = if status.message.is_empty() {
        &status.reason
    } else {
        &status.message
    };
    format!("{message} ({})", status.code)
}

/// The outermost error alone says little.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

fn with_remedy(text: String) -> String {
    if text.contains("forbidden") {
        return format!("{text}; give the service account the rights of examples/kubernetes/base/rbac.yaml");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_and_no_more() {
        let message = "nodes \"a\" is forbidden: cannot patch resource \"nodes/status\"";
        let status = Status::failure(message, "Forbidden").with_code(403);
        let error = kube::Error::Api(Box::new(status.clone()));
        let expected = format!(
            "{message} (403); give the service account the rights of examples/kubernetes/base/rbac.yaml"
        );
        assert_eq!(in_words(&error), expected);
        assert_eq!(
            of_watch(&watcher::Error::WatchError(Box::new(status))),
            format!("the watch ended: {expected}")
        );
        let silent = Status::failure("", "InternalError").with_code(500);
        let list = watcher::Error::InitialListFailed(kube::Error::Api(Box::new(silent)));
        assert_eq!(of_watch(&list), "cannot list: InternalError (500)");
    }
}
