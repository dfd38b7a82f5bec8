//! A measurement as one self-contained page: no scripts, nothing loaded from elsewhere, readable in light and dark.

use super::bench::Sample;
use super::report::{BackendReport, Report};
use crate::pipeline::latency::Summary;
use maud::{Markup, PreEscaped, html};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #6a737d; --paper: #ffffff; --line: #d8dee4;
  --c0: #1f6feb; --c1: #bc4c00; --c2: #2da44e; --c3: #8250df; --c4: #a40e26; --c5: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9da7b1; --paper: #0d1117; --line: #30363d;
  --c0: #58a6ff; --c1: #f0883e; --c2: #56d364; --c3: #bc8cff; --c4: #ff7b72; --c5: #39c5cf; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .faint { fill: var(--faint); } svg .grid { stroke: var(--line); } .scroll { overflow-x: auto; }
";

/// Number of colours in [`STYLE`].
const COLOURS: usize = 6;
/// Width of a plot, in the units of its view box.
const WIDTH: f64 = 900.0;

/// The page.
pub fn page(report: &Report) -> String {
    let checkpoint = report.configuration.checkpoint.display();
    let page = html! {
        // maud's own constant is in upper case.
        (PreEscaped("<!doctype html>"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "X-VLA benchmark" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "X-VLA benchmark: " (checkpoint) }
                (latency_table(report))
                (median_bars(report))
                (latency_lines(report))
                (memory_table(report))
                (configuration(report))
            }
        }
    };
    page.into_string()
}

/// The style that paints the `index`th backend, as `property`.
fn colour(property: &str, index: usize) -> String {
    format!("{property}:var(--c{})", index % COLOURS)
}

/// A length in a plot, rounded to what can be seen.
fn length(value: f64) -> String {
    format!("{value:.1}")
}

fn latency_table(report: &Report) -> Markup {
    html! {
        h2 { "Latency, ms" }
        div class="scroll" {
            table {
                tr { @for name in ["backend", "stage", "min", "p50", "p90", "p99", "max", "mean"] { th { (name) } } }
                @for backend in &report.backends {
                    @for (stage, Summary { min, p50, p90, p99, max, mean }) in backend.stages.named() {
                        tr {
                            td { (backend.backend) }
                            td { (stage) }
                            @for value in [min, p50, p90, p99, max, mean] { td { (format!("{value:.3}")) } }
                        }
                    }
                }
            }
        }
    }
}

/// Medians per stage, a bar per backend.
fn median_bars(report: &Report) -> Markup {
    const ROW: f64 = 20.0;
    const GAP: f64 = 10.0;
    const LEFT: f64 = 110.0;
    const RIGHT: f64 = 190.0;
    let backends = &report.backends;
    let medians = |backend: &BackendReport| backend.stages.named().map(|(stage, summary)| (stage, summary.p50));
    let names = backends.first().map(medians).unwrap_or_default().map(|(name, _)| name);
    let all = backends.iter().flat_map(medians).map(|(_, median_ms)| median_ms);
    let largest = all.fold(f64::MIN_POSITIVE, f64::max);
    let width = |median_ms: f64| (median_ms / largest * (WIDTH - LEFT - RIGHT)).max(1.0);
    let top = |stage: usize, index: usize| GAP * (stage + 1) as f64 + ROW * (stage * backends.len() + index) as f64;
    let height = (GAP + ROW * backends.len() as f64) * names.len() as f64;
    html! {
        h2 { "Median per stage" }
        svg viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" aria-label="Median latency per stage" {
            @for (stage, name) in names.into_iter().enumerate() {
                text x="0" y=(length(top(stage, 0) + 14.0)) { (name) }
                @for (index, backend) in backends.iter().enumerate() {
                    @if let Some((_, median_ms)) = medians(backend).get(stage) {
                        rect x=(LEFT) y=(length(top(stage, index) + 2.0)) width=(length(width(*median_ms)))
                            height=(length(ROW - 4.0)) rx="2" style=(colour("fill", index)) {}
                        text x=(length(LEFT + width(*median_ms) + 6.0)) y=(length(top(stage, index) + 14.0)) {
                            (format!("{median_ms:.2} ms ")) tspan class="faint" { (backend.backend) }
                        }
                    }
                }
            }
        }
    }
}

/// End-to-end latency of every inference, in order.
fn latency_lines(report: &Report) -> Markup {
    const HEIGHT: f64 = 260.0;
    const LEFT: f64 = 60.0;
    const TOP: f64 = 10.0;
    const BOTTOM: f64 = 30.0;
    let all = || report.backends.iter().flat_map(|backend| backend.samples.iter().map(|sample| sample.e2e_ms));
    let highest = all().fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let longest = report.backends.iter().map(|backend| backend.samples.len()).max().unwrap_or(1).max(2);
    let x = |index: usize| LEFT + (WIDTH - LEFT) * index as f64 / (longest - 1) as f64;
    let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / highest);
    let points = |samples: &[Sample]| {
        let points = samples.iter().enumerate();
        points.map(|(index, sample)| format!("{:.1},{:.1} ", x(index), y(sample.e2e_ms))).collect::<String>()
    };
    html! {
        h2 { "End to end over iterations, ms" }
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="End-to-end latency of every inference" {
            @for value in (0..=4).map(|quarter| highest * f64::from(quarter) / 4.0) {
                line class="grid" x1=(LEFT) x2=(WIDTH) y1=(length(y(value))) y2=(length(y(value))) {}
                text class="faint" x=(LEFT - 6.0) y=(length(y(value) + 4.0)) text-anchor="end" { (length(value)) }
            }
            @for (index, backend) in report.backends.iter().enumerate() {
                polyline points=(points(&backend.samples))
                    style={ "fill:none;stroke-width:1.5;" (colour("stroke", index)) } {}
                text x=(length(LEFT + 140.0 * index as f64)) y=(length(HEIGHT - 6.0)) style=(colour("fill", index)) {
                    (backend.backend)
                }
            }
        }
    }
}

fn memory_table(report: &Report) -> Markup {
    let mebibytes = |bytes: Option<u64>| {
        bytes.map_or("not told by this system".to_owned(), |bytes| {
            format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
        })
    };
    let heads = ["backend", "segment", "peak resident", "own at the end", "mapped files at the end"];
    html! {
        h2 { "Memory of the host process" }
        div class="scroll" {
            table {
                tr { @for head in heads { th { (head) } } }
                @for backend in &report.backends {
                    @for (segment, peak) in backend.memory.named() {
                        tr {
                            td { (backend.backend) }
                            td { (segment) }
                            @for bytes in [peak.peak_bytes, peak.anonymous_bytes, peak.file_bytes] {
                                td { (mebibytes(bytes)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn configuration(report: &Report) -> Markup {
    let (machine, versions, how) = (&report.machine, &report.versions, &report.configuration);
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let memory = machine.memory_bytes.map(|bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    let facts = [
        ("processor", format!("{} ({} cores, {})", known(&machine.cpu), machine.cores, machine.architecture)),
        ("memory", known(&memory)),
        ("system", format!("{}, Linux {}", known(&machine.os), known(&machine.kernel))),
        ("GPU", if machine.gpus.is_empty() { "none".to_owned() } else { machine.gpus.join(", ") }),
        ("xvla_ros", versions.xvla_ros.to_owned()),
        ("libtorch", versions.libtorch.clone()),
        ("checkpoint", format!("{} ({} bytes of weights)", how.checkpoint.display(), how.weight_bytes)),
        ("batches", format!("{} in {}", how.batches, how.calibration.display())),
        ("runs on", format!("{}, {}, {} thread(s)", how.device, how.dtype, how.threads)),
        ("denoising steps", how.steps.map_or("the checkpoint's own".to_owned(), |steps| steps.to_string())),
        ("iterations", format!("{} after {} to warm up", how.iterations, how.warmup)),
        ("seed of the noise", how.seed.to_string()),
        ("percentiles", how.percentiles.to_owned()),
    ];
    html! {
        h2 { "Configuration" }
        dl {
            @for (name, value) in facts { dt { (name) } dd { (value) } }
            @for backend in &report.backends {
                dt { "backend" }
                dd {
                    (backend.backend) ": "
                    (format!("loaded in {:.1} ms, first inference {:.1} ms", backend.load_ms, backend.first_inference_ms))
                    @if let Some(delta) = backend.max_abs_delta { (format!(", max |Δ| {delta:.2e} against the first")) }
                }
            }
        }
    }
}
