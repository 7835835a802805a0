//! Commands of the operator to the running agent.

use super::{Agent, CommandError};
use crate::drain::Drain;
use crate::server::ToAgent;

impl Agent {
    pub(super) async fn order(&mut self, order: ToAgent) {
        match order {
            ToAgent::Reload(answer) => drop(answer.send(self.reload().await)),
            ToAgent::Diff(text, answer) => self.diff(&text, answer),
            ToAgent::Bfd(answer) => self.bfd.show(answer).await,
            ToAgent::Cluster(answer) => self.show_cluster(answer),
            ToAgent::Services(answer) => self.show_services(answer),
            ToAgent::Ping(answer) => drop(answer.send(())),
            ToAgent::Drain { on, withdraw, answer } => {
                let outcome = self
                    .drain(Drain {
                        on,
                        withdraw: on && withdraw,
                        ..Drain::default()
                    })
                    .await;
                drop(answer.send(outcome));
            }
        }
    }

    /// Drains the node to this degree, or ends the drain.
    pub(super) async fn drain(&mut self, mut drain: Drain) -> Result<String, CommandError> {
        if drain.on && drain.node.is_empty() {
            let known = self.file.facts.cluster.as_ref();
            let own = known.and_then(|known| known.nodes.get(&self.name()));
            drain.node = own.map(|node| node.uid.clone()).unwrap_or_default();
        }
        drain
            .write(&self.node.run_dir)
            .map_err(|source| CommandError::SaveDrain {
                path: self.node.run_dir.clone(),
                source,
            })?;
        self.drain = drain.clone();
        self.speaker.drain(drain.on).await?;
        self.check_sessions();
        self.speaker.originate(self.originated()).await?;
        let rules = self.originate_rules().await;
        self.speaker.originate_by_rules(rules).await?;
        tracing::info!(
            event = "drain_changed",
            draining = drain.on,
            withdrawn = drain.withdraw,
            "drain state changed"
        );
        Ok(drain.to_string())
    }
}
