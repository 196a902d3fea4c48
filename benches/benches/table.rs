//! The worker's table under a request's eyes: a look-up in tables of 10, 1,000 and 100,000
//! circuits, and what it costs to put a change in.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has to stop"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use patchbay_benches::circuit;
use patchbay_common::circuit::{AppMode, Slot};
use patchbay_common::event::Change;
use patchbay_worker::table::Table;

const SIZES: [usize; 3] = [10, 1_000, 100_000];

fn subdomain(index: usize) -> String {
    format!("notebook-{index}")
}

fn table_of(size: usize) -> Table {
    let table = Table::new();
    let circuits = (0..size).map(|index| {
        let slot = Slot::Subdomain(subdomain(index));
        circuit(&slot, AppMode::Interactive).unwrap()
    });
    table.replace(circuits.collect());
    assert_eq!(table.len(), size);
    table
}

fn look_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table");
    for size in SIZES {
        let table = table_of(size);
        // All of them, in an order the processor cannot guess, made before the clock runs.
        let names: Vec<String> = (0..size)
            .map(|turn| subdomain((turn * 7_919) % size))
            .collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("at_subdomain", size), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % names.len();
                black_box(table.at_subdomain(&names[turn])).unwrap()
            });
        });
        group.bench_function(BenchmarkId::new("unknown", size), |bencher| {
            bencher.iter(|| assert!(table.at_subdomain(black_box("nobody")).is_none()));
        });
        group.bench_function(BenchmarkId::new("open_and_close", size), |bencher| {
            let slot = Slot::Subdomain("newcomer".into());
            let newcomer = circuit(&slot, AppMode::Interactive).unwrap();
            let changes = || {
                let opened = Change::Created(vec![newcomer.clone()]);
                (opened, Change::Removed(vec![newcomer.clone()]))
            };
            let apply = |(opened, closed)| {
                table.apply(&opened);
                table.apply(&closed);
            };
            bencher.iter_batched(changes, apply, BatchSize::SmallInput);
        });
    }
    let table = Table::new();
    let circuits = (10_205..=12_204).map(|port| circuit(&Slot::Port(port), AppMode::Interactive));
    table.replace(circuits.map(Result::unwrap).collect());
    let mut port = 10_205;
    group.bench_function(BenchmarkId::new("at_port", 2_000), |bencher| {
        bencher.iter(|| {
            port = if port == 12_204 { 10_205 } else { port + 1 };
            black_box(table.at_port(port)).unwrap()
        });
    });
    group.finish();
}

/// What the slowest look-ups and changes of a hundred take, which averages do not tell.
fn slowest(_: &mut Criterion) {
    const SIZE: usize = 100_000;
    let quantiles = |mut times: Vec<Duration>| {
        times.sort_unstable();
        let at = |share: usize| times[times.len() * share / 1_000];
        (at(500), at(990), at(999))
    };
    let table = table_of(SIZE);
    let names: Vec<String> = (0..SIZE)
        .map(|turn| subdomain((turn * 7_919) % SIZE))
        .collect();
    let timed = |run: &mut dyn FnMut()| {
        let begun = Instant::now();
        run();
        begun.elapsed()
    };
    let looked = names
        .iter()
        .map(|name| timed(&mut || drop(black_box(table.at_subdomain(name)))));
    let looked = quantiles(looked.collect());
    let newcomer = circuit(&Slot::Subdomain("newcomer".into()), AppMode::Interactive).unwrap();
    let mut changed = Vec::new();
    for _ in 0..10_000 {
        for change in [
            Change::Created(vec![newcomer.clone()]),
            Change::Removed(vec![newcomer.clone()]),
        ] {
            changed.push(timed(&mut || table.apply(&change)));
        }
    }
    let changed = quantiles(changed);
    for (what, (median, p99, p999)) in [("look-up", looked), ("change", changed)] {
        println!("{SIZE} circuits, a {what}: median {median:?}, p99 {p99:?}, p99.9 {p999:?}");
    }
    assert!(looked.1 < Duration::from_micros(1), "a look-up is slow");
    assert!(changed.1 < Duration::from_micros(100), "a change is slow");
}

criterion_group!(benches, look_up, slowest);
criterion_main!(benches);
