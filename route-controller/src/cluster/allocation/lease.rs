//! The Lease `podroute-services` in the agents' namespace.
//!
//! A write succeeds only on the version that was read: of two candidates that take it at a time one fails.

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use podroute_services::{LEASE, Record};

const NAME: &str = "podroute-services";

/// The Lease as last read or written.
pub(super) struct Lease {
    api: Api<Object>,
    holder: String,
    object: Option<Object>,
}

impl Lease {
    /// In the namespace of the account that the agent runs as.
    pub(super) fn new(client: Client, holder: String) -> Self {
        Self {
            api: Api::default_namespaced(client),
            holder,
            object: None,
        }
    }

    pub(super) fn holder(&self) -> &str {
        &self.holder
    }

    pub(super) async fn read(&mut self) -> kube::Result<Option<Record>> {
        self.object = self.api.get_opt(NAME).await?;
        let record = |object: &Object| Record {
            holder: object
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.clone())
                .unwrap_or_default(),
            version: object.resource_version().unwrap_or_default(),
        };
        Ok(self.object.as_ref().map(record))
    }

    pub(super) async fn create(&mut self) -> kube::Result<()> {
        let mut object = Object::default();
        object.metadata.name = Some(NAME.to_owned());
        object.spec = Some(self.spec(None, Some(&self.holder)));
        let params = PostParams::default();
        self.object = Some(self.api.create(&params, &object).await?);
        Ok(())
    }

    /// Takes it, or renews it.
    pub(super) async fn renew(&mut self) -> kube::Result<()> {
        let spec = self.spec(self.object.as_ref(), Some(&self.holder));
        self.replace(spec).await
    }

    /// Gives it up: the next candidate takes it at once.
    pub(super) async fn release(&mut self) -> kube::Result<()> {
        let spec = self.spec(self.object.as_ref(), None);
        self.replace(spec).await
    }

    async fn replace(&mut self, spec: LeaseSpec) -> kube::Result<()> {
        let mut object = self.object.clone().unwrap_or_default();
        object.metadata.managed_fields = None;
        object.spec = Some(spec);
        self.object = Some(self.api.replace(NAME, &PostParams::default(), &object).await?);
        Ok(())
    }

    fn spec(&self, old: Option<&Object>, holder: Option<&str>) -> LeaseSpec {
        let old = old.and_then(|object| object.spec.clone()).unwrap_or_default();
        let is_new = old.holder_identity.as_deref() != holder;
        let now = Some(MicroTime(Timestamp::now()));
        LeaseSpec {
            acquire_time: if is_new { now.clone() } else { old.acquire_time },
            holder_identity: Some(holder.unwrap_or_default().to_owned()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            lease_transitions: Some(
                old.lease_transitions
                    .unwrap_or(0)
                    .saturating_add(i32::from(is_new)),
            ),
            renew_time: now,
            ..LeaseSpec::default()
        }
    }
}
