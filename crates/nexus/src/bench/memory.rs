//! Memory of a process, as the kernel counts it (Linux).

use anyhow::Context;

/// Resident now, of this process, in bytes.
pub fn resident() -> anyhow::Result<u64> {
    read("self", "VmRSS:")
}

/// Resident at most so far, of this process, in bytes.
pub fn peak() -> anyhow::Result<u64> {
    read("self", "VmHWM:")
}

/// Resident at most so far, of another process, in bytes.
pub fn peak_of(process: u32) -> anyhow::Result<u64> {
    read(&process.to_string(), "VmHWM:")
}

fn read(process: &str, field: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path} (Linux only)"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field} in {path}"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("reading {field}"))?;
    Ok(kib * 1_024)
}
