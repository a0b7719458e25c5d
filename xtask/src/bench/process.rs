//! What a process and its descendants have used, from `/proc`.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

/// The kernel counts in hundredths of a second, on every architecture that Linux has today.
const TICKS: f64 = 100.0;

/// What the processes of a tree have used, added up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// Seconds on a core, in the program and in the kernel, since they were started.
    pub(crate) cpu: f64,
    /// Resident bytes now.
    pub(crate) resident: u64,
    /// The most resident bytes so far.
    pub(crate) peak: u64,
}

/// What the process `root` and all below it have used. Fails when there is no such process.
pub(crate) fn used(root: u32) -> Result<Used> {
    let mut used = Used::default();
    for process in tree(root)? {
        // One that has ended meanwhile is not there to be asked.
        let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
        let Ok(status) = fs::read_to_string(format!("/proc/{process}/status")) else { continue };
        let (_, ticks) = parse_stat(&stat).context("/proc/PID/stat is not as expected")?;
        used.cpu += ticks as f64 / TICKS;
        used.resident += bytes(&status, "VmRSS:");
        used.peak += bytes(&status, "VmHWM:");
    }
    Ok(used)
}

fn tree(root: u32) -> Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").context("/proc cannot be read: this needs Linux")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        if let Some((parent, _)) = parse_stat(&stat) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(process) = found.get(at) {
        found.extend(children.remove(process).unwrap_or_default());
        at += 1;
    }
    fs::metadata(format!("/proc/{root}")).with_context(|| format!("there is no process {root}"))?;
    Ok(found)
}

/// The parent, and the ticks in the program and in the kernel.
fn parse_stat(stat: &str) -> Option<(u32, u64)> {
    // The name, in parentheses, may hold spaces and parentheses.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((fields.get(1)?.parse().ok()?, ticks(11)? + ticks(12)?))
}

fn bytes(status: &str, key: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(key));
    let kibibytes = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_mislead() {
        let check = |stat: &str, expected| assert_eq!(parse_stat(stat), expected, "{stat}");
        check("7 (a b) c) S 3 7 7 0 -1 4194560 1 0 0 0 20 5 0 0 20", Some((3, 25)));
        check("7 (a) S 3 7", None);
        check("", None);
    }

    #[test]
    fn children_are_counted() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let (all, alone) = (tree(std::process::id()).unwrap(), tree(child.id()).unwrap());
        let memory = used(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(all.contains(&child.id()), "{all:?}");
        assert_eq!(alone, [child.id()]);
        assert!(memory.resident > 0 && memory.peak >= memory.resident, "{memory:?}");
        assert!(used(child.id()).is_err());
    }
}
