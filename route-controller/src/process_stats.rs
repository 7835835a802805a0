//! The usual series `process_…` of this process, from /proc.

use std::fs;
use std::sync::atomic::AtomicU64;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What /proc says of this process.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Stats {
    cpu_seconds: f64,
    /// Unix time.
    start: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
    threads: f64,
    open_files: f64,
    max_files: f64,
}

/// The series, in a registry without a prefix.
pub(crate) fn registry() -> Registry {
    let stats = read().unwrap_or_default();
    let mut registry = Registry::default();
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by(stats.cpu_seconds);
    registry.register("process_cpu_seconds", "CPU time, user and system", cpu);
    for (name, help, value) in [
        ("process_start_time_seconds", "Start in Unix time", stats.start),
        (
            "process_virtual_memory_bytes",
            "Virtual memory",
            stats.virtual_bytes,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory",
            stats.resident_bytes,
        ),
        ("process_threads", "Threads", stats.threads),
        ("process_open_fds", "Open file descriptors", stats.open_files),
        (
            "process_max_fds",
            "Limit of open file descriptors",
            stats.max_files,
        ),
    ] {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    registry
}

fn read() -> Option<Stats> {
    let ticks = constant(SysconfVar::CLK_TCK)?;
    let page = constant(SysconfVar::PAGE_SIZE)?;
    let mut stats = parse(&fs::read_to_string("/proc/self/stat").ok()?, ticks, page)?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    stats.start += boot.trim().parse::<f64>().ok()?;
    stats.open_files = fs::read_dir("/proc/self/fd").ok()?.count() as f64;
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    stats.max_files = limit.split_whitespace().next()?.parse().ok()?;
    Some(stats)
}

fn constant(of: SysconfVar) -> Option<f64> {
    sysconf(of).ok().flatten().map(|value| value as f64)
}

/// Fields of /proc/self/stat (proc(5)); the name may contain blanks and ends at the last parenthesis.
fn parse(stat: &str, ticks: f64, page: f64) -> Option<Stats> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first one here is field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Stats {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        threads: field(20)?,
        start: field(22)? / ticks,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
        ..Stats::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_proc() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 1200 4096000 25 1844\n";
        let stats = parse(stat, 100.0, 4096.0).unwrap();
        assert_eq!(stats.cpu_seconds, 2.0);
        assert_eq!((stats.threads, stats.start), (9.0, 12.0));
        assert_eq!(
            (stats.virtual_bytes, stats.resident_bytes),
            (4_096_000.0, 102_400.0)
        );
        assert_eq!(parse("7 (a", 1.0, 1.0), None);
    }

    #[test]
    fn this_process_has_them() {
        let stats = read().unwrap();
        assert!(stats.resident_bytes > 1e5 && stats.open_files >= 3.0, "{stats:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        let age = now.unwrap().as_secs_f64() - stats.start;
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }
}
