//! `podroute show fib --summary`: whether the kernel has what it should have.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Answer, CliError, ClientError, Form, Output, client, for_programs, with_schema};
use crate::count::count;
use crate::status::{FibStatus, Reply, Request};

/// Routes that are not in the kernel are named up to this number.
const NAMED: usize = 5;

pub(super) fn summary(output: &Output) -> Result<Answer, CliError> {
    let Reply::Fib(routes) = client::ask(&output.run_dir.run_dir, &Request::Fib)? else {
        return Err(ClientError::Unexpected.into());
    };
    let summary = Summary::of(&routes);
    let text = match output.output {
        Form::Table | Form::Wide => summary.text(),
        form => {
            let value = serde_json::to_value(&summary)?;
            for_programs(form, &with_schema("fibSummary", value))?
        }
    };
    println!("{}", text.trim_end());
    Ok(if summary.in_sync {
        Answer::InOrder
    } else {
        Answer::NotInOrder
    })
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    /// Every wanted route is in the kernel.
    in_sync: bool,
    /// Routes by state.
    states: BTreeMap<String, usize>,
    /// The first that are not in the kernel, with the reason.
    missing: Vec<String>,
}

impl Summary {
    fn of(routes: &[FibStatus]) -> Self {
        let mut states = BTreeMap::new();
        for route in routes {
            *states.entry(route.state.clone()).or_default() += 1;
        }
        let is_missing = |route: &&FibStatus| !matches!(route.state.as_str(), "installed" | "not needed");
        let missing = routes.iter().filter(is_missing);
        let name = |route: &FibStatus| {
            let why = route.error.as_deref().unwrap_or("not written yet");
            format!("{} ({}): {why}", route.prefix, route.state)
        };
        Self {
            in_sync: routes.iter().find(is_missing).is_none(),
            states,
            missing: missing.take(NAMED).map(name).collect(),
        }
    }

    fn text(&self) -> String {
        let installed = self.states.get("installed").copied().unwrap_or_default();
        let mut out = if self.in_sync {
            format!("in sync: {} in the kernel", count(installed, "route"))
        } else {
            let missing: usize = self.states.values().sum::<usize>() - installed;
            format!(
                "not in sync: {} in the kernel, {missing} not",
                count(installed, "route")
            )
        };
        for (state, number) in self.states.iter().filter(|(state, _)| *state != "installed") {
            out.push_str(&format!("\n  {state}: {number}"));
        }
        for missing in &self.missing {
            out.push_str(&format!("\n  {missing}"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(state: &str, error: Option<&str>) -> FibStatus {
        FibStatus {
            prefix: "10.244.2.0/24".to_owned(),
            kind: "unicast".to_owned(),
            metric: 20,
            next_hops: Vec::new(),
            nexthop_object: None,
            state: state.to_owned(),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let good = Summary::of(&[
            route("installed", None),
            route("not needed", Some("a Service of this node")),
        ]);
        assert!(good.in_sync);
        assert_eq!(good.text(), "in sync: 1 route in the kernel\n  not needed: 1");
        for (state, error) in [
            ("pending", None),
            ("failed", Some("Invalid argument")),
            ("refused", Some("rule")),
        ] {
            let bad = Summary::of(&[route("installed", None), route(state, error)]);
            assert!(!bad.in_sync, "{state}");
            assert!(
                bad.text()
                    .starts_with("not in sync: 1 route in the kernel, 1 not"),
                "{}",
                bad.text()
            );
            assert!(
                bad.text().contains(error.unwrap_or("not written yet")),
                "{}",
                bad.text()
            );
        }
        assert!(Summary::of(&[]).in_sync);
    }
}
