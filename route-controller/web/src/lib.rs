//! The looking glass: pages that show what agents know, in a browser.
//!
//! It only reads. What it shows comes from a [`Source`]: the agent of one node, or all nodes through the API server. The pages are
//! embedded files without a build chain; they put every text into the document as text, because a neighbor controls some of it. The
//! server listens on loopback addresses only, and answers requests for its own name only (`guard`).

mod guard;
mod hub;
mod pages;
mod router;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;

pub use guard::Token;

/// A list that a page shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum View {
    Peers,
    Blocks,
    Routes,
    Pods,
    Services,
    Policies,
    Events,
}

impl View {
    pub const ALL: [Self; 7] = [
        Self::Peers,
        Self::Blocks,
        Self::Routes,
        Self::Pods,
        Self::Services,
        Self::Policies,
        Self::Events,
    ];

    /// As paths and events name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Blocks => "blocks",
            Self::Routes => "routes",
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Policies => "policies",
            Self::Events => "events",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|view| view.name() == name)
    }
}

/// Where documents come from.
pub trait Source: Send + Sync + 'static {
    /// Why there is no document; pages show it.
    type Error: std::fmt::Display + Send;

    /// The current document: an object with `nodes`, `unanswered` and `items`.
    fn document(&self, view: View) -> impl Future<Output = Result<Value, Self::Error>> + Send;

    /// How long a document is good for: nobody asks for a newer one before.
    fn max_age(&self) -> Duration;
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {error}")]
    Listen {
        address: SocketAddr,
        error: std::io::Error,
    },
    #[error(
        "{0} is no loopback address: the looking glass has no TLS; reach it by ssh -L or kubectl podroute web"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot make a token: {0}")]
    Token(std::io::Error),
}

/// A socket that is ready to serve.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Listens on a loopback address; port 0 takes any free one.
    ///
    /// # Errors
    /// The address is none of loopback, or is taken.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback(address));
        }
        let listener = TcpListener::bind(address).await;
        listener
            .map(Self)
            .map_err(|error| Error::Listen { address, error })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves until the future is dropped. With a token only who has it gets an answer.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn serve(self, source: impl Source, token: Option<Token>) -> std::io::Result<()> {
        axum::serve(self.0, router::router(source, token)).await
    }
}
