//! A measurement as one self-contained page, readable in light and dark.

use super::markup::{self, Series, WIDTH, colour, length, line_plot};
use super::report::{BackendReport, Report};
use maud::{Markup, html};

/// The page.
pub fn page(report: &Report) -> String {
    let stages = report.backends.iter().map(|backend| (backend.backend.as_str(), backend.stages));
    let body = html! {
        h1 { "X-VLA benchmark: " (report.configuration.checkpoint.display()) }
        (markup::latency_table(stages))
        (median_bars(report))
        (latency_lines(report))
        (memory_table(report))
        (configuration(report))
    };
    markup::document("X-VLA benchmark", &body)
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
    let series = report.backends.iter().map(|backend| Series {
        name: &backend.backend,
        points: backend.samples.iter().zip(0_u32..).map(|(sample, index)| (f64::from(index), sample.e2e_ms)).collect(),
    });
    let series: Vec<Series> = series.collect();
    html! {
        h2 { "End to end over iterations, ms" }
        (line_plot("End-to-end latency of every inference", "", 260.0, false, &series))
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
                    (format!("{}, loaded in {:.1} ms, first inference {:.1} ms", backend.path, backend.load_ms, backend.first_inference_ms))
                    @if let Some(delta) = backend.max_abs_delta { (format!(", max |Δ| {delta:.2e} against the first")) }
                }
            }
        }
    }
}
