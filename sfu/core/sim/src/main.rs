//! `callyard-sim`: runs scenarios and writes their figures; records and replays traces.

use std::collections::VecDeque;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use callyard_proto::config::Config;
use callyard_sim::call::Call;
use callyard_sim::dump::{self, Dump, Trouble};
use callyard_sim::metrics::{self, Metrics, Series};
use callyard_sim::replay;
use callyard_sim::scenario::{self, Scenario};
use serde::Serialize;

const USAGE: &str = "\
callyard-sim run --out DIR [--seeds N] [--threads N] [--only NAME]...   figures of all scenarios, as JSON
callyard-sim record NAME --out FILE [--seed N] [--subscriber N] [--from SECOND]   a trace, as `callyard trace` writes it
callyard-sim replay FILE [--set NAME=VALUE]... [--out FILE]               what came in again; what is decided now, beside it
callyard-sim forward DUMP --out FILE [--seed N] [--trouble lossy|narrow]   a captured stream as a viewer gets it
callyard-sim allocator                                                    cost of one allocation
--scenarios FILE: others than those that come with it
";

/// One call's outcome as it is written down.
#[derive(Serialize)]
struct Outcome<'a> {
    scenario: &'a Scenario,
    seed: u64,
    metrics: Metrics,
    series: Series,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match command(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn command(arguments: &[String]) -> Result<(), String> {
    let options = Options::read(arguments.get(1..).unwrap_or_default())?;
    match arguments.first().map(String::as_str) {
        Some("run") => run(&options),
        Some("record") => record(&options),
        Some("replay") => replay(&options),
        Some("forward") => forward(&options),
        Some("allocator") => {
            callyard_sim::peers::report_cost();
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    }
}

struct Options {
    out: Option<PathBuf>,
    seeds: u64,
    seed: u64,
    threads: usize,
    only: Vec<String>,
    scenarios: Option<PathBuf>,
    trouble: Option<String>,
    subscriber: u64,
    from_s: f64,
    set: Vec<String>,
    names: Vec<String>,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            out: None,
            seeds: 3,
            seed: 1,
            threads: 2,
            only: Vec::new(),
            scenarios: None,
            trouble: None,
            subscriber: 0,
            from_s: 0.0,
            set: Vec::new(),
            names: Vec::new(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if !argument.starts_with("--") {
                options.names.push(argument.clone());
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{argument} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{argument} takes a number"));
            match argument.as_str() {
                "--out" => options.out = Some(value.into()),
                "--seeds" => options.seeds = number()?,
                "--seed" => options.seed = number()?,
                "--threads" => options.threads = number()? as usize,
                "--scenarios" => options.scenarios = Some(value.into()),
                "--trouble" => options.trouble = Some(value.clone()),
                "--subscriber" => options.subscriber = number()?,
                "--from" => {
                    let second = value.parse().ok().filter(|second: &f64| (0.0..1e6).contains(second));
                    options.from_s = second.ok_or_else(|| format!("{argument} takes a second of the call"))?;
                }
                "--set" => options.set.push(value.clone()),
                "--only" => options.only.push(value.clone()),
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(options)
    }

    fn scenarios(&self) -> Result<Vec<Scenario>, String> {
        let Some(path) = &self.scenarios else { return Ok(scenario::builtin()) };
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }
}

fn run(options: &Options) -> Result<(), String> {
    let out = options.out.as_deref().ok_or(USAGE)?;
    std::fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
    let scenarios = options.scenarios()?;
    let chosen = |s: &&Scenario| options.only.is_empty() || options.only.contains(&s.name);
    let jobs: Vec<(&Scenario, u64)> =
        scenarios.iter().filter(chosen).flat_map(|s| (1..=options.seeds).map(move |seed| (s, seed))).collect();
    if jobs.is_empty() {
        let names: Vec<&str> = scenarios.iter().map(|s| s.name.as_str()).collect();
        return Err(format!("no such scenario; there are: {}", names.join(", ")));
    }
    let jobs = Mutex::new(VecDeque::from(jobs));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.clamp(1, 64) {
            scope.spawn(|| {
                while let Some((scenario, seed)) = jobs.lock().ok().and_then(|mut jobs| jobs.pop_front()) {
                    if let Err(error) = one(scenario, seed, out)
                        && let Ok(mut failures) = failures.lock()
                    {
                        failures.push(error);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn one(scenario: &Scenario, seed: u64, out: &Path) -> Result<(), String> {
    let mut call = Call::new(scenario, seed, Config::default());
    call.run();
    let metrics = metrics::of(&call);
    eprintln!(
        "{:<20} seed {seed}: utility {:.2}, frozen {:.0} ms/min, queue {:.0} ms, offered {:.1}",
        scenario.name, metrics.utility, metrics.frozen_ms_per_min, metrics.queue_p95_ms, metrics.worst_offered
    );
    let series = metrics::series(&call, 0);
    let outcome = Outcome { scenario, seed, metrics, series };
    let path = out.join(format!("{}.{seed}.json", scenario.name));
    write(&path, |file| Ok(serde_json::to_writer(file, &outcome)?))
}

fn record(options: &Options) -> Result<(), String> {
    let name = options.names.first().ok_or(USAGE)?;
    let scenarios = options.scenarios()?;
    let scenario = scenarios.iter().find(|s| s.name == *name).ok_or_else(|| format!("no scenario is called {name}"))?;
    let (_, subscribers) = scenario.expanded();
    let subscriber = options.subscriber as usize;
    if subscriber >= subscribers.len() {
        return Err(format!("{name} has {} subscribers, the first is 0", subscribers.len()));
    }
    let mut call = Call::recorded(scenario, options.seed, Config::default(), subscriber, options.from_s);
    call.run();
    write(options.out.as_deref().ok_or(USAGE)?, |file| file.write_all(&call.trace))
}

fn replay(options: &Options) -> Result<(), String> {
    let path = options.names.first().ok_or(USAGE)?;
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let played = replay::play(&text, &options.set).map_err(|e| format!("{path}: {e}"))?;
    let report = replay::report(&played);
    std::io::stdout().write_all(report.as_bytes()).map_err(|e| e.to_string())?;
    match &options.out {
        Some(out) => write(out, |file| file.write_all(&played.text)),
        None => Ok(()),
    }
}

fn forward(options: &Options) -> Result<(), String> {
    let path = options.names.first().ok_or(USAGE)?;
    let bytes = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    let dump = Dump::read(&bytes).map_err(|e| format!("{path}: {e}"))?;
    let free = Trouble { loss: 0.0, jitter: Duration::ZERO, narrows: false };
    let trouble = match options.trouble.as_deref() {
        None => free,
        Some("lossy") => Trouble { loss: 0.05, jitter: Duration::from_millis(15), ..free },
        Some("narrow") => Trouble { narrows: true, ..free },
        Some(other) => return Err(format!("no trouble is called {other}")),
    };
    let packets = dump::forward(&dump, options.seed, trouble);
    write(options.out.as_deref().ok_or(USAGE)?, |file| {
        packets.iter().try_for_each(|packet| {
            file.write_all(&(packet.len() as u16).to_be_bytes())?;
            file.write_all(packet)
        })
    })
}

fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<std::fs::File>) -> std::io::Result<()>,
) -> Result<(), String> {
    let write = || {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        content(&mut file)?;
        file.flush()
    };
    write().map_err(|e| format!("{}: {e}", path.display()))
}
