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
