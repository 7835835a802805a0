//! The same question to many nodes, at most some at a time.

use std::time::Duration;

use futures::StreamExt;

use crate::answer::{Answers, Unanswered};
use crate::error::NodeError;
use crate::target::{Agent, Target};

/// How nodes are asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Nodes that are asked at a time.
    pub(crate) concurrency: usize,
    /// How long one node may take.
    pub(crate) timeout: Duration,
}

/// Asks every target; `progress` gets the number of nodes that are done. Answers are in the order of the targets.
pub(crate) async fn gather<T, F>(
    targets: Vec<Target>,
    pace: Pace,
    ask: impl Fn(Agent) -> F,
    mut progress: impl FnMut(usize),
) -> Answers<T>
where
    F: Future<Output = Result<T, NodeError>>,
{
    let asked = targets.len();
    let one = |target: Target| {
        let started = target.agent.map(&ask);
        let node = target.node;
        async move {
            let outcome = match started {
                Ok(answer) => match tokio::time::timeout(pace.timeout, answer).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(NodeError::Timeout(pace.timeout.as_secs())),
                },
                Err(reason) => Err(reason),
            };
            (node, outcome)
        }
    };
    let mut running = futures::stream::iter(targets)
        .map(one)
        .buffer_unordered(pace.concurrency.max(1));
    let mut answers = Answers::new(asked);
    let mut done = 0;
    while let Some((node, outcome)) = running.next().await {
        done += 1;
        progress(done);
        match outcome {
            Ok(value) => answers.answered.push((node, value)),
            Err(error) => answers.unanswered.push(Unanswered::new(node, &error)),
        }
    }
    answers.answered.sort_by(|(one, _), (other, _)| one.cmp(other));
    answers.unanswered.sort();
    answers
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn target(number: usize, agent: Result<(), NodeError>) -> Target {
        Target {
            node: format!("node-{number:04}"),
            agent: agent.map(|()| Agent {
                pod: format!("pod-{number}"),
                container: "podroute".to_owned(),
                program: "/podroute".to_owned(),
            }),
        }
    }

    #[tokio::test]
    async fn a_thousand_nodes_at_most_some_at_a_time() {
        let targets = (0..1000).map(|number| target(number, Ok(()))).collect();
        let [now, most] = [0, 0].map(|start| Arc::new(AtomicUsize::new(start)));
        let ask = |agent: Agent| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(agent.pod)
            }
        };
        let pace = Pace {
            concurrency: 32,
            timeout: Duration::from_secs(60),
        };
        let mut seen = Vec::new();
        let answers = gather(targets, pace, ask, |done| seen.push(done)).await;
        assert_eq!(answers.answered.len(), 1000);
        assert_eq!(answers.answered[7], ("node-0007".to_owned(), "pod-7".to_owned()));
        assert_eq!(most.load(Ordering::SeqCst), 32);
        assert_eq!(seen, (1..=1000).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_named_and_holds_nobody_up() {
        let targets = vec![
            target(1, Ok(())),
            target(2, Err(NodeError::NoPod)),
            target(3, Ok(())),
            target(4, Ok(())),
        ];
        let ask = |agent: Agent| async move {
            match agent.pod.as_str() {
                "pod-3" => std::future::pending().await,
                "pod-4" => Err(NodeError::Interrupted),
                _ => Ok(1),
            }
        };
        let pace = Pace {
            concurrency: 1,
            timeout: Duration::from_secs(30),
        };
        let answers = gather(targets, pace, ask, |_| {}).await;
        assert_eq!(answers.answered, [("node-0001".to_owned(), 1)]);
        let said: Vec<&str> = answers.unanswered.iter().map(|one| one.reason.as_str()).collect();
        assert_eq!(
            said,
            [
                "no pod of the agent is on this node",
                "no answer within 30 s",
                "the connection ended before the answer did"
            ]
        );
        assert_eq!(answers.asked, 4);
    }
}
