//! Why a command could not be answered at all.

/// A failure of the whole command; nodes that do not answer are no failure, but a partial result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the kubeconfig: {0}; name one with --kubeconfig or KUBECONFIG")]
    Kubeconfig(String),
    #[error("cannot list {what}: {error}")]
    List { what: &'static str, error: String },
    #[error(
        "no pod in namespace '{namespace}' has the labels '{selector}': name others with --namespace and --selector"
    )]
    NoAgents { namespace: String, selector: String },
    #[error("{name}: {error}")]
    File { name: String, error: std::io::Error },
    #[error("cannot write the answer: {0}")]
    Form(String),
    #[error(
        "neither of {0} is on a node of this cluster: name a pod as NAMESPACE/NAME, a node, or an address of one"
    )]
    NoEnd(String),
    #[error(transparent)]
    Web(#[from] podroute_web::Error),
    #[error("input or output: {0}")]
    Runtime(std::io::Error),
}

/// Why a node has not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NodeError {
    #[error("no such node")]
    NoNode,
    #[error("no pod of the agent is on this node")]
    NoPod,
    #[error("pod {pod} has no container '{container}'")]
    NoContainer { pod: String, container: String },
    #[error("pod {pod} does not run: {state}")]
    NotRunning { pod: String, state: String },
    #[error("no answer within {0} s")]
    Timeout(u64),
    /// The first line of what the program said.
    #[error("exit status {status}: {message}")]
    Exit { status: i32, message: String },
    #[error("the connection ended before the answer did")]
    Interrupted,
    #[error("its answer is longer than {0} KiB: ask for less, as one prefix")]
    TooLong(u64),
    #[error("its answer is not UTF-8")]
    NotText,
    #[error("its answer has no list '{0}': the agent is of another version")]
    NoList(&'static str),
    #[error("cannot read its answer: {0}; the agent may be of another version")]
    Unreadable(String),
    #[error("{0}: this needs the right to create and get pods/exec in the namespace of the agents")]
    Forbidden(String),
    /// Of the API server or the kubelet.
    #[error("{0}")]
    Api(String),
}

/// The outermost error alone says little.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
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
