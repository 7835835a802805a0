//! A client of the Kubernetes API for occasional writes, created at the first one and kept.

use kube::Client;

/// A client that is created when it is needed.
#[derive(Default)]
pub(crate) struct LazyClient(Option<Client>);

impl LazyClient {
    /// Runs one request. After a failure the next request begins with a new client: credentials or the server's address may
    /// have changed.
    pub(crate) async fn run<T, F>(&mut self, request: impl FnOnce(Client) -> F) -> kube::Result<T>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let client = match self.0.take() {
            Some(client) => client,
            None => Client::try_default().await?,
        };
        let answer = request(client.clone()).await;
        self.0 = answer.is_ok().then_some(client);
        answer
    }
}

#[cfg(test)]
mod tests {
    use kube::client::Body;

    use super::*;

    #[tokio::test]
    async fn a_client_is_kept_until_a_request_fails() {
        let service = tower::service_fn(|_: axum::http::Request<Body>| async {
            Err::<axum::http::Response<Body>, _>(std::io::Error::other("not used"))
        });
        let mut client = LazyClient(Some(Client::new(service, "kept")));
        for _ in 0..2 {
            let namespace = |client: Client| async move { Ok(client.default_namespace().to_owned()) };
            assert_eq!(client.run(namespace).await.unwrap(), "kept");
        }
        let refused = client
            .run(|_| async { Err::<(), _>(kube::Error::LinesCodecMaxLineLengthExceeded) })
            .await;
        assert!(refused.is_err());
        assert!(client.0.is_none(), "the next request creates another");
    }
}
