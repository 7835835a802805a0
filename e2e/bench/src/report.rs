//! What all reports share: the machine, the median, the files.

use std::path::Path;

use lab::failure::{Context, Result};

/// Cores, processor and kernel.
pub(crate) fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, name)| name.trim())
        .to_owned();
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let release = kernel.split('-').next().unwrap_or_default().trim().to_owned();
    format!("{cores} cores, {model}, Linux {release}")
}

/// Writes NAME.md and NAME.json.
pub(crate) fn save(dir: &Path, name: &str, text: &str, json: &serde_json::Value) -> Result<()> {
    std::fs::create_dir_all(dir).context(dir.display())?;
    let file = dir.join(format!("{name}.md"));
    std::fs::write(&file, text).context(file.display())?;
    let file = dir.join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(json).unwrap_or_default() + "\n";
    std::fs::write(&file, text).context(file.display())
}

/// The median of a figure of several runs.
pub(crate) fn median<R>(runs: &[&R], of: impl Fn(&R) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(|run| of(run)).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
