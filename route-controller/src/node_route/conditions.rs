//! Conditions of the object, for `kubectl wait --for=condition=Ready noderoute/node-1`.

use serde::{Deserialize, Serialize};

/// As `metav1.Condition`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    pub(crate) r#type: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// When `status` last changed.
    pub(crate) last_transition_time: String,
}

/// What conditions are made of.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) not_ready: Vec<String>,
    /// Peers whose sessions should be up.
    pub(super) down: Vec<String>,
    pub(super) is_config_rejected: bool,
    pub(super) failed_routes: usize,
    pub(super) drained: String,
}

/// Names in a message; more are counted.
const NAMED: usize = 3;

/// Without times.
pub(super) fn of(state: &State) -> Vec<Condition> {
    let ready = match state.not_ready.as_slice() {
        [] => ("True", "Ready", "the node is ready".to_owned()),
        why => ("False", "NotReady", why.join("; ")),
    };
    let sessions = match state.down.as_slice() {
        [] => (
            "True",
            "AllEstablished",
            "all wanted sessions are established".to_owned(),
        ),
        down => ("False", "Down", format!("not established: {}", names(down))),
    };
    let routes = match state.failed_routes {
        0 => ("True", "Installed", "the kernel has all routes".to_owned()),
        failed => (
            "False",
            "Failed",
            format!("{failed} routes are not in the kernel"),
        ),
    };
    let configuration = if state.is_config_rejected {
        (
            "False",
            "Rejected",
            "the configuration on disk was rejected; the previous one is in force".to_owned(),
        )
    } else {
        ("True", "Accepted", "the file on disk is in force".to_owned())
    };
    let drained = match state.drained.as_str() {
        "No" => (
            "False",
            "NotDrained",
            "routes are advertised as configured".to_owned(),
        ),
        "Withdrawn" => ("True", "Withdrawn", "the node's routes are withdrawn".to_owned()),
        level => ("True", level, "peers are asked to prefer other paths".to_owned()),
    };
    [
        ("Ready", ready),
        ("SessionsEstablished", sessions),
        ("RoutesInstalled", routes),
        ("ConfigurationAccepted", configuration),
        ("Drained", drained),
    ]
    .map(|(r#type, (status, reason, message))| Condition {
        r#type: r#type.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: String::new(),
    })
    .into()
}

/// With the time of each one's last transition: `now` where `status` differs from the previous one.
pub(super) fn with_times(
    mut conditions: Vec<Condition>,
    previous: &[Condition],
    now: &str,
) -> Vec<Condition> {
    for condition in &mut conditions {
        let same = previous
            .iter()
            .find(|previous| previous.r#type == condition.r#type && previous.status == condition.status);
        let since = same.map(|previous| previous.last_transition_time.as_str());
        condition.last_transition_time = since.filter(|since| !since.is_empty()).unwrap_or(now).to_owned();
    }
    conditions
}

fn names(all: &[String]) -> String {
    let shown = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(conditions: &[Condition], name: &str) -> String {
        let found = conditions
            .iter()
            .find(|condition| condition.r#type == name)
            .unwrap();
        found.status.clone()
    }

    #[test]
    fn each_fault_has_its_condition() {
        let good = State {
            drained: "No".to_owned(),
            ..State::default()
        };
        let all = of(&good);
        for (name, wanted) in [
            ("Ready", "True"),
            ("SessionsEstablished", "True"),
            ("RoutesInstalled", "True"),
            ("ConfigurationAccepted", "True"),
            ("Drained", "False"),
        ] {
            assert_eq!(status(&all, name), wanted, "{name}");
        }
        let bad = of(&State {
            not_ready: vec!["no session is up".to_owned()],
            down: ["a", "b", "c", "d"].map(str::to_owned).into(),
            is_config_rejected: true,
            failed_routes: 2,
            drained: "Withdrawn".to_owned(),
        });
        for (name, wanted) in [
            ("Ready", "False"),
            ("SessionsEstablished", "False"),
            ("RoutesInstalled", "False"),
            ("ConfigurationAccepted", "False"),
            ("Drained", "True"),
        ] {
            assert_eq!(status(&bad, name), wanted, "{name}");
        }
        assert_eq!(bad[1].message, "not established: a, b, c and 1 more");
        assert!(
            all.iter()
                .chain(&bad)
                .all(|condition| !condition.message.is_empty())
        );
    }

    #[test]
    fn a_time_is_that_of_the_last_transition() {
        let good = of(&State {
            drained: "No".to_owned(),
            ..State::default()
        });
        let first = with_times(good.clone(), &[], "1");
        assert!(
            first
                .iter()
                .all(|condition| condition.last_transition_time == "1")
        );
        let down = of(&State {
            down: vec!["a".to_owned()],
            drained: "No".to_owned(),
            ..State::default()
        });
        let second = with_times(down, &first, "2");
        let times: Vec<&str> = second
            .iter()
            .map(|condition| condition.last_transition_time.as_str())
            .collect();
        assert_eq!(times, ["1", "2", "1", "1", "1"]);
        assert_eq!(with_times(good, &second, "3")[1].last_transition_time, "3");
    }
}
