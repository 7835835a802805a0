//! The cluster that is asked.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::answer::Answers;
use crate::args::Options;
use crate::error::{Error, with_causes};
use crate::exec::{self, Output};
use crate::gather::{Pace, gather};
use crate::locate::node_of;
use crate::progress::Progress;
use crate::target::{Target, targets};

/// Objects of one page of a list.
const PAGE: u32 = 500;

/// A connection to the API server, and the agents.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
    targets: Vec<Target>,
    pace: Pace,
    /// No progress on standard error.
    quiet: bool,
}

impl Cluster {
    /// Connects, and finds the agents.
    pub(crate) async fn connect(options: &Options) -> Result<Self, Error> {
        let client = client(options).await?;
        let targets = find(&client, options).await?;
        Ok(Self {
            client,
            namespace: options.namespace.clone(),
            targets,
            pace: Pace {
                concurrency: usize::from(options.concurrency),
                timeout: Duration::from_secs(options.timeout),
            },
            quiet: false,
        })
    }

    /// The same, with only these nodes.
    pub(crate) fn only(&self, nodes: &[String]) -> Self {
        let mut targets = self.targets.clone();
        targets.retain(|target| nodes.contains(&target.node));
        Self {
            targets,
            ..self.clone()
        }
    }

    /// The node that an end of a packet is on; `None` for what is outside, and for Services.
    pub(crate) async fn node_of(&self, end: &str) -> Result<Option<String>, Error> {
        let fail = |what| {
            move |error: kube::Error| Error::List {
                what,
                error: with_causes(&error),
            }
        };
        let nodes: Vec<Node> = list(Api::all(self.client.clone()), ListParams::default())
            .await
            .map_err(fail("nodes"))?;
        let pods = match end.split_once('/') {
            // One namespace needs a smaller right than all.
            Some((namespace, _)) => {
                list(
                    Api::namespaced(self.client.clone(), namespace),
                    ListParams::default(),
                )
                .await
            }
            None if end.parse::<std::net::IpAddr>().is_ok() => {
                list(Api::all(self.client.clone()), ListParams::default()).await
            }
            None => Ok(Vec::new()),
        };
        Ok(node_of(end, &nodes, &pods.map_err(fail("pods"))?))
    }

    /// Without progress on standard error.
    pub(crate) fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// With the agents that there are now.
    pub(crate) async fn refreshed(&self, options: &Options) -> Result<Self, Error> {
        let targets = find(&self.client, options).await?;
        Ok(Self {
            targets,
            ..self.clone()
        })
    }

    /// Runs the program with these arguments on every node; each answer with its exit status.
    pub(crate) async fn run(&self, args: &[&str], input: Option<&str>) -> Answers<Output> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut progress = Progress::start(self.targets.len(), self.quiet);
        let ask = |agent| {
            let (client, namespace, args) = (self.client.clone(), &self.namespace, &args);
            async move { exec::run(client, namespace, &agent, args, input).await }
        };
        let answers = gather(self.targets.clone(), self.pace, ask, |done| progress.show(done)).await;
        progress.end();
        answers
    }

    /// The same for a command whose failure is no answer.
    pub(crate) async fn ask(&self, args: &[&str]) -> Answers<String> {
        self.run(args, None).await.read(Output::success)
    }
}

async fn client(options: &Options) -> Result<Client, Error> {
    let wanted = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    let fail = |error: &dyn std::error::Error| Error::Kubeconfig(with_causes(error));
    let config = match &options.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| fail(&error))?;
            Config::from_custom_kubeconfig(file, &wanted)
                .await
                .map_err(|error| fail(&error))?
        }
        None => Config::from_kubeconfig(&wanted)
            .await
            .map_err(|error| fail(&error))?,
    };
    Client::try_from(config).map_err(|error| fail(&error))
}

async fn find(client: &Client, options: &Options) -> Result<Vec<Target>, Error> {
    let agents = ListParams::default().labels(&options.selector);
    let pods: Vec<Pod> = list(Api::namespaced(client.clone(), &options.namespace), agents)
        .await
        .map_err(|error| Error::List {
            what: "the agents' pods",
            error: with_causes(&error),
        })?;
    if pods.is_empty() {
        return Err(Error::NoAgents {
            namespace: options.namespace.clone(),
            selector: options.selector.clone(),
        });
    }
    // Only to see nodes without an agent; who may not list nodes gets those with one.
    let nodes: Option<Vec<Node>> = list(Api::all(client.clone()), ListParams::default()).await.ok();
    Ok(targets(nodes.as_deref(), &pods, &options.nodes))
}

async fn list<K>(api: Api<K>, params: ListParams) -> kube::Result<Vec<K>>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut params = params.limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
