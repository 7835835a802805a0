//! Which addresses of Services this node begins or ceases to announce.

use std::collections::BTreeMap;

use podroute_config::Config;

/// Lines of one change; more are counted.
const NAMED: usize = 50;

/// Logs the difference between two configurations.
pub(super) fn log(old: &Config, new: &Config) {
    let (before, now) = (announced(old), announced(new));
    let mut changes = Vec::new();
    for (key, reason) in &now {
        let was_announced = matches!(before.get(key), Some(None));
        match reason {
            None if !was_announced => changes.push((key, None)),
            Some(why) if was_announced => changes.push((key, Some(why.clone()))),
            _ => {}
        }
    }
    let gone = before
        .iter()
        .filter(|(key, reason)| reason.is_none() && !now.contains_key(*key));
    changes.extend(gone.map(|(key, _)| (key, Some("the Service or its address is gone".to_owned()))));
    for ((service, address), withdrawn) in changes.iter().take(NAMED) {
        match withdrawn {
            None => {
                tracing::debug!(event = "service_announced", %service, %address, "this node announces the Service's address")
            }
            Some(why) => {
                tracing::debug!(event = "service_withdrawn", %service, %address, reason = %why, "this node does not announce the Service's address any more")
            }
        }
    }
    if let Some(more) = changes.len().checked_sub(NAMED).filter(|more| *more > 0) {
        tracing::debug!(
            event = "service_announced",
            more,
            "further addresses of Services changed"
        );
    }
}

/// Addresses of Services, and why this node does not announce each; `None`: it does.
type Announced = BTreeMap<(String, String), Option<String>>;

fn announced(config: &Config) -> Announced {
    let outcomes = config.services.outcomes.iter();
    outcomes
        .flat_map(|(service, outcomes)| {
            outcomes.iter().map(|one| {
                let key = (service.clone(), one.address.to_string());
                (key, one.outcome.as_ref().err().map(ToString::to_string))
            })
        })
        .collect()
}
