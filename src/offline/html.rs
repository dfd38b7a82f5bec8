//! A measurement as one self-contained page: no scripts, nothing loaded from elsewhere, readable in light and dark.

use super::report::{BackendReport, Report};
use crate::pipeline::latency::Summary;
use std::fmt::Write;

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
    let mut sections = String::new();
    for section in [table(report), bars(report), lines(report), memory(report), facts(report)] {
        sections.push_str(&section);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>X-VLA benchmark</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>X-VLA benchmark: {checkpoint}</h1>\n{sections}</body>\n</html>\n",
        checkpoint = escape(&report.configuration.checkpoint.display().to_string()),
    )
}

/// Text that cannot be taken for markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn colour(index: usize) -> String {
    format!("var(--c{})", index % COLOURS)
}

fn table(report: &Report) -> String {
    let mut rows = String::new();
    for backend in &report.backends {
        for (stage, Summary { min, p50, p90, p99, max, mean }) in backend.stages.named() {
            let cells: String =
                [min, p50, p90, p99, max, mean].iter().map(|value| format!("<td>{value:.3}</td>")).collect();
            rows += &format!("<tr><td>{}</td><td>{stage}</td>{cells}</tr>\n", escape(&backend.backend));
        }
    }
    format!(
        "<h2>Latency, ms</h2>\n<div class=\"scroll\"><table>\n<tr><th>backend</th><th>stage</th><th>min</th><th>p50</th>\
         <th>p90</th><th>p99</th><th>max</th><th>mean</th></tr>\n{rows}</table></div>\n"
    )
}

/// Medians per stage, a bar per backend.
fn bars(report: &Report) -> String {
    const ROW: f64 = 20.0;
    const LEFT: f64 = 110.0;
    const RIGHT: f64 = 190.0;
    let medians = |backend: &BackendReport| backend.stages.named().map(|(_, summary)| summary.p50);
    let largest = report.backends.iter().flat_map(medians).fold(f64::MIN_POSITIVE, f64::max);
    let mut shapes = String::new();
    let mut y = 0.0;
    for (stage, name) in ["preprocess", "vlm", "policy", "postprocess", "e2e"].into_iter().enumerate() {
        y += 10.0;
        let _ = write!(shapes, "<text x=\"0\" y=\"{:.1}\">{name}</text>", y + 14.0);
        for (index, backend) in report.backends.iter().enumerate() {
            let Some(value) = medians(backend).get(stage).copied() else { continue };
            let width = (value / largest * (WIDTH - LEFT - RIGHT)).max(1.0);
            let _ = writeln!(
                shapes,
                "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\" style=\"fill:{}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{value:.2} ms <tspan class=\"faint\">{}</tspan></text>",
                y + 2.0,
                ROW - 4.0,
                colour(index),
                LEFT + width + 6.0,
                y + 14.0,
                escape(&backend.backend),
            );
            y += ROW;
        }
    }
    format!(
        "<h2>Median per stage</h2>\n<svg viewBox=\"0 0 {WIDTH} {y:.0}\" role=\"img\" aria-label=\"Median latency per stage\">\n{shapes}</svg>\n"
    )
}

/// End-to-end latency of every inference, in order.
fn lines(report: &Report) -> String {
    const HEIGHT: f64 = 260.0;
    const LEFT: f64 = 60.0;
    const TOP: f64 = 10.0;
    const BOTTOM: f64 = 30.0;
    let all = || report.backends.iter().flat_map(|backend| backend.samples.iter().map(|sample| sample.e2e_ms));
    let highest = all().fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let longest = report.backends.iter().map(|backend| backend.samples.len()).max().unwrap_or(1).max(2);
    let x = |index: usize| LEFT + (WIDTH - LEFT) * index as f64 / (longest - 1) as f64;
    let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / highest);

    let mut shapes = String::new();
    for quarter in 0..=4 {
        let value = highest * f64::from(quarter) / 4.0;
        let _ = writeln!(
            shapes,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\
             <text class=\"faint\" x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{value:.1}</text>",
            y(value),
            LEFT - 6.0,
            y(value) + 4.0,
        );
    }
    for (index, backend) in report.backends.iter().enumerate() {
        let points: String = backend
            .samples
            .iter()
            .enumerate()
            .map(|(index, sample)| format!("{:.1},{:.1} ", x(index), y(sample.e2e_ms)))
            .collect();
        let _ = writeln!(
            shapes,
            "<polyline points=\"{points}\" style=\"fill:none;stroke:{0};stroke-width:1.5\"/>\
             <text x=\"{1:.1}\" y=\"{2:.1}\" style=\"fill:{0}\">{3}</text>",
            colour(index),
            LEFT + 140.0 * index as f64,
            HEIGHT - 6.0,
            escape(&backend.backend),
        );
    }
    format!(
        "<h2>End to end over iterations, ms</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"End-to-end latency of every inference\">\n{shapes}</svg>\n"
    )
}

fn memory(report: &Report) -> String {
    let mebibytes = |bytes: Option<u64>| {
        bytes.map_or("not told by this system".to_owned(), |bytes| {
            format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
        })
    };
    let mut rows = String::new();
    for backend in &report.backends {
        let segments =
            [("load", backend.memory.load), ("warm-up", backend.memory.warm_up), ("run", backend.memory.run)];
        for (segment, peak) in segments {
            rows += &format!(
                "<tr><td>{}</td><td>{segment}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                escape(&backend.backend),
                mebibytes(peak.peak_bytes),
                mebibytes(peak.anonymous_bytes),
                mebibytes(peak.file_bytes),
            );
        }
    }
    format!(
        "<h2>Memory of the host process</h2>\n<div class=\"scroll\"><table>\n<tr><th>backend</th><th>segment</th>\
         <th>peak resident</th><th>own at the end</th><th>mapped files at the end</th></tr>\n{rows}</table></div>\n"
    )
}

fn facts(report: &Report) -> String {
    let (machine, versions, how) = (&report.machine, &report.versions, &report.configuration);
    let unknown = || "unknown".to_owned();
    let mut facts = vec![
        (
            "processor",
            format!(
                "{} ({} cores, {})",
                machine.cpu.clone().unwrap_or_else(unknown),
                machine.cores,
                machine.architecture
            ),
        ),
        (
            "memory",
            machine.memory_bytes.map_or_else(unknown, |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))),
        ),
        (
            "system",
            format!(
                "{}, Linux {}",
                machine.os.clone().unwrap_or_else(unknown),
                machine.kernel.clone().unwrap_or_else(unknown)
            ),
        ),
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
    for backend in &report.backends {
        let delta =
            backend.max_abs_delta.map_or(String::new(), |delta| format!(", max |Δ| {delta:.2e} against the first"));
        let load =
            format!("loaded in {:.1} ms, first inference {:.1} ms{delta}", backend.load_ms, backend.first_inference_ms);
        facts.push(("backend", format!("{}: {load}", backend.backend)));
    }
    let rows: String =
        facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", escape(value))).collect();
    format!("<h2>Configuration</h2>\n<dl>\n{rows}</dl>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
