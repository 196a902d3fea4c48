//! Families under the names that the incumbent's dashboards know (contract/metrics.md §3) and that
//! nothing here is counted by: put together when the text is asked for. Its families of single
//! store and queue operations have no counterpart but `patchbay_coordinator_store_seconds`.

use std::fmt::{Display, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a process has used of a processor when it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Processor(Mutex<Option<(Instant, Duration)>>);

impl Processor {
    /// Per cent of one processor used since the last look; 0 at the first.
    fn percent(&self, now: Instant, used: Duration) -> f64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, known) = last.replace((now, used)).unwrap_or((now, used));
        let passed = now.duration_since(before).as_secs_f64();
        if passed <= 0.0 {
            return 0.0;
        }
        used.saturating_sub(known).as_secs_f64() / passed * 100.0
    }
}

/// What was counted elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// Acknowledgements heard on Redis.
    pub(crate) heard: u64,
    /// Events that Redis took.
    pub(crate) sent: u64,
    /// Events that it did not.
    pub(crate) unsent: u64,
}

/// Appends the families to the exposition.
pub(crate) fn append(text: &mut String, processor: &Processor, counted: Counted) {
    let mut out = Out(text);
    out.family("backendai_event_count_total", "counter");
    let event = "event_type=\"appproxy_worker_circuit_added_event\"";
    out.sample("backendai_event_count_total", event, counted.heard);
    let operation = "domain=\"valkey\",layer=\"valkey_stream\",operation=\"broadcast\"";
    let name = "backendai_layer_operation_count_total";
    out.family(name, "counter");
    for (success, count) in [("True", counted.sent), ("False", counted.unsent)] {
        let labels = format!("{operation},success=\"{success}\"");
        out.sample(name, &labels, count);
    }
    let tasks = tokio::runtime::Handle::try_current()
        .map_or(0, |runtime| runtime.metrics().num_alive_tasks());
    out.gauge("backendai_async_task_count", tasks);
    if let Some(process) = Process::read() {
        let percent = processor.percent(Instant::now(), process.used);
        out.gauge("backendai_cpu_usage_percent", percent);
        out.gauge("backendai_memory_used_rss", process.resident);
        out.gauge("backendai_memory_used_vms", process.virtual_size);
    }
}

struct Out<'a>(&'a mut String);

impl Out<'_> {
    fn family(&mut self, name: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.0,
            "# HELP {name} Kept for dashboards of the Backend.AI App Proxy.\n# TYPE {name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
    }

    fn gauge(&mut self, name: &str, value: impl Display) {
        self.family(name, "gauge");
        let _ = writeln!(self.0, "{name} {value}");
    }
}

/// This process, as Linux knows it.
struct Process {
    used: Duration,
    resident: u64,
    virtual_size: u64,
}

impl Process {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        Self::parse(&stat)
    }

    /// Out of the line of `/proc/self/stat`. The kernel tells times in hundredths of a second and
    /// resident memory in pages of 4 KiB.
    fn parse(stat: &str) -> Option<Self> {
        // The name, in brackets, may hold blanks.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let number = |place: usize| fields.get(place)?.trim().parse::<u64>().ok();
        Some(Self {
            used: Duration::from_millis(10 * (number(11)? + number(12)?)),
            virtual_size: number(20)?,
            resident: number(21)? * 4_096,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 9 0 11 8192000 300 18446";
        let process = Process::parse(stat).unwrap();
        assert_eq!(process.used, Duration::from_secs(3));
        assert_eq!(
            (process.virtual_size, process.resident),
            (8_192_000, 1_228_800)
        );
        assert!(Process::parse("1 (a) S 0").is_none());
    }

    #[test]
    fn a_processor_is_used_since_the_last_look() {
        let processor = Processor::default();
        let begin = Instant::now();
        assert_eq!(processor.percent(begin, Duration::from_secs(3)), 0.0);
        let later = begin + Duration::from_secs(10);
        assert_eq!(processor.percent(later, Duration::from_secs(8)), 50.0);
    }
}
