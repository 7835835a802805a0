//! Series of this node: configuration, repairs, durations, blocks, requests of the CNI plugin.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bgp_proto::types::Prefix;
use cni_ipam::VerbTally;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Metric;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Source;
use super::page::Labels;
use crate::measured::Measured;

/// Adds all of them.
pub(super) async fn put(registry: &mut Registry, source: &Source) {
    put_measured(registry, &source.health.measured);
    let run_dir = source.run_dir.clone();
    let blocks = source.health.blocks();
    // Files of the plugins: reading them blocks.
    let read = tokio::task::spawn_blocking(move || {
        let addresses = pod_addresses(&run_dir);
        (addresses, cni_ipam::tallies(&run_dir).unwrap_or_default())
    });
    let Ok((addresses, tallies)) = read.await else {
        return;
    };
    put_blocks(registry, &blocks, &addresses);
    put_requests(registry, tallies);
}

fn pod_addresses(run_dir: &std::path::Path) -> Vec<IpAddr> {
    let attachments = cni_ipam::attachments(&run_dir.join("ipam")).unwrap_or_default();
    attachments.into_iter().flat_map(|pod| pod.addresses).collect()
}

fn put_measured(registry: &mut Registry, measured: &Measured) {
    let (applied, refused, at) = measured.config.get();
    let generation = Gauge::<i64>::default();
    generation.set(i64::try_from(applied).unwrap_or(i64::MAX));
    registry.register(
        "config_generation",
        "Configurations that were applied since the start",
        generation,
    );
    let time = Gauge::<i64>::default();
    time.set(i64::try_from(at).unwrap_or(i64::MAX));
    registry.register(
        "config_applied_timestamp_seconds",
        "When the running configuration was applied, in Unix time",
        time,
    );
    let numbers = [
        (
            "config_refused",
            "Times that a configuration was refused",
            refused,
        ),
        (
            "kernel_repairs",
            "Changes of other programs to kernel routes that were taken back",
            measured.kernel_repairs.load(Ordering::Relaxed),
        ),
    ];
    for (name, help, value) in numbers {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    registry.register(
        "kubernetes_event_to_update_seconds",
        "From a change in Kubernetes to the UPDATE for peers",
        measured.event_to_update.histogram(),
    );
    registry.register(
        "update_to_kernel_seconds",
        "From the first UPDATE of a burst to the kernel's answer to its last route",
        measured.update_to_kernel.histogram(),
    );
    registry.register(
        "bfd_loss_to_kernel_seconds",
        "From the loss of a path that BFD watches to the kernel's answer to the last change",
        measured.loss_to_kernel.histogram(),
    );
}

fn put_blocks(registry: &mut Registry, blocks: &[Prefix], addresses: &[IpAddr]) {
    let use_of = Metric::<Labels, Gauge<f64, AtomicU64>>::default();
    for block in blocks {
        let is_inside = |address: &&IpAddr| block.contains(&Prefix::host(**address));
        let used = addresses.iter().filter(is_inside).count();
        let size = 2f64.powi(i32::from(block.family().max_len() - block.len()));
        for (state, count) in [("size", size), ("used", used as f64)] {
            let labels = vec![("block", block.to_string()), ("state", state.to_owned())];
            use_of.get_or_create(&labels).set(count);
        }
    }
    registry.register(
        "block_addresses",
        "Addresses of this node's blocks, and how many of them pods have",
        use_of,
    );
}

fn put_requests(registry: &mut Registry, tallies: Vec<VerbTally>) {
    let failures = Metric::<Labels, Counter>::default();
    for tally in &tallies {
        let labels = vec![("verb", tally.verb.to_owned())];
        failures.get_or_create(&labels).inc_by(tally.failures);
    }
    registry.register("cni_failures", "Requests of the CNI plugin that failed", failures);
    registry.register_collector(Box::new(Requests(tallies)));
}

/// Durations that the plugin's processes counted.
#[derive(Debug)]
struct Requests(Vec<VerbTally>);

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (name, help) = ("cni_seconds", "Durations of requests of the CNI plugin");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for tally in &self.0 {
            let labels: Labels = vec![("verb", tally.verb.to_owned())];
            let metric = Durations(tally);
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

struct Durations<'a>(&'a VerbTally);

impl EncodeMetric for Durations<'_> {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::MetricEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let count = self.0.buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.0.seconds, count, &self.0.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
