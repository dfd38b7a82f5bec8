//! What the pages of reports have in common: a document without scripts and without anything loaded from elsewhere, tables
//! of latencies, and plots of lines.

use super::report::Stages;
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
pub const WIDTH: f64 = 900.0;

/// A document with a title and its content.
pub fn document(title: &str, body: &Markup) -> String {
    let page = html! {
        // maud's own constant is in upper case.
        (PreEscaped("<!doctype html>"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// The style that paints the `index`th series, as `property`.
pub fn colour(property: &str, index: usize) -> String {
    format!("{property}:var(--c{})", index % COLOURS)
}

/// A length in a plot, rounded to what can be seen.
pub fn length(value: f64) -> String {
    format!("{value:.1}")
}

/// The latency of every stage of each backend.
pub fn latency_table<'r>(backends: impl Iterator<Item = (&'r str, Stages)>) -> Markup {
    html! {
        h2 { "Latency, ms" }
        div class="scroll" {
            table {
                tr { @for name in ["backend", "stage", "min", "p50", "p90", "p99", "max", "mean"] { th { (name) } } }
                @for (backend, stages) in backends {
                    @for (stage, Summary { min, p50, p90, p99, max, mean }) in stages.named() {
                        tr {
                            td { (backend) }
                            td { (stage) }
                            @for value in [min, p50, p90, p99, max, mean] { td { (format!("{value:.3}")) } }
                        }
                    }
                }
            }
        }
    }
}

/// A line of a plot.
pub struct Series<'s> {
    /// Its name.
    pub name: &'s str,
    /// Its points, from left to right. Those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// The points that are finite, cut where the line would bridge a gap: where two are far more apart than most are.
fn pieces(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    const TOO_FAR: f64 = 8.0;
    let finite: Vec<_> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let mut steps: Vec<f64> = finite.iter().zip(finite.iter().skip(1)).map(|((from, _), (to, _))| to - from).collect();
    steps.sort_by(f64::total_cmp);
    let usual = steps.get(steps.len() / 2).copied().unwrap_or_default();
    finite.chunk_by(|(from, _), (to, _)| to - from <= TOO_FAR * usual).map(<[_]>::to_vec).collect()
}

/// Every line but the first is broken, so that one that lies below another can be seen.
fn dash(index: usize) -> &'static str {
    if index == 0 { "" } else { "stroke-dasharray:6 4;" }
}

/// Lines over a common axis. `label` says what the plot shows, `unit` what stands below the axis. The vertical axis begins
/// at zero unless values lie below it or `is_cropped` is set.
pub fn line_plot(label: &str, unit: &str, height: f64, is_cropped: bool, series: &[Series]) -> Markup {
    let points = series.iter().flat_map(|series| series.points.iter().copied());
    let Some(axes) = Axes::around(points, std::iter::empty(), height, is_cropped) else {
        return html! { p { (label) ": nothing to show" } };
    };
    html! {
        svg viewBox=(axes.view_box()) role="img" aria-label=(label) {
            (axes.frame(unit))
            @for (index, series) in series.iter().enumerate() {
                @for piece in pieces(&series.points) {
                    @if let [(at, value)] = piece.as_slice() {
                        circle cx=(length(axes.x(*at))) cy=(length(axes.y(*value))) r="2" style=(colour("fill", index)) {}
                    } @else {
                        polyline points=(axes.path(&piece)) style={ "fill:none;stroke-width:1.5;" (dash(index)) (colour("stroke", index)) } {}
                    }
                }
                (axes.name(index, series.name))
            }
        }
    }
}

/// Left of the axes, in the units of a plot's view box.
const LEFT: f64 = 60.0;
/// Above them.
const TOP: f64 = 10.0;
/// Below them.
const BOTTOM: f64 = 46.0;

/// The axes of a plot.
#[derive(Clone, Copy, Debug)]
pub struct Axes {
    left: f64,
    right: f64,
    low: f64,
    high: f64,
    height: f64,
}

impl Axes {
    /// Axes of a plot of this height that hold the finite ones of all `points`, and the moments `also`; `None` without a
    /// point. The vertical one begins at zero unless values lie below it or `is_cropped` is set.
    pub fn around(
        points: impl Iterator<Item = (f64, f64)>,
        also: impl Iterator<Item = f64>,
        height: f64,
        is_cropped: bool,
    ) -> Option<Self> {
        let wider = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let mut ends: Option<((f64, f64), (f64, f64))> = None;
        for (x, y) in points.filter(|(x, y)| x.is_finite() && y.is_finite()) {
            let (across, up) = ends.unwrap_or(((x, x), (y, y)));
            ends = Some((wider(across, x), wider(up, y)));
        }
        let (across, (low, high)) = ends?;
        let (left, right) = also.filter(|x| x.is_finite()).fold(across, wider);
        let low = if is_cropped { low } else { low.min(0.0) };
        let margin = if high > low { (high - low) * 0.05 } else { high.abs().max(1.0) * 0.5 };
        let (low, high) = (if low == 0.0 { 0.0 } else { low - margin }, high + margin);
        Some(Self { left, right, low, high, height })
    }

    /// Where a value lies from left to right.
    pub fn x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT) * (value - self.left) / (self.right - self.left).max(f64::MIN_POSITIVE)
    }

    /// Where a value lies from top to bottom.
    pub fn y(&self, value: f64) -> f64 {
        TOP + (self.height - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)
    }

    /// Where the axes begin from the top.
    pub fn top(&self) -> f64 {
        TOP
    }

    /// Where they end.
    pub fn bottom(&self) -> f64 {
        self.height - BOTTOM
    }

    /// The view box of the plot.
    pub fn view_box(&self) -> String {
        format!("0 0 {WIDTH} {}", self.height)
    }

    /// A line through `points`.
    pub fn path(&self, points: &[(f64, f64)]) -> String {
        points.iter().map(|(at, value)| format!("{:.1},{:.1} ", self.x(*at), self.y(*value))).collect()
    }

    /// The name of the `index`th line, below the axes.
    pub fn name(&self, index: usize, name: &str) -> Markup {
        html! {
            text x=(length(LEFT + 140.0 * index as f64)) y=(length(self.height - 6.0)) style=(colour("fill", index)) {
                (name)
            }
        }
    }

    /// Lines across, and the numbers on both axes. `unit` stands below the horizontal one.
    pub fn frame(&self, unit: &str) -> Markup {
        let quarters = (0..=4).map(f64::from).map(|quarter| quarter / 4.0);
        let Self { left, right, low, high, height } = *self;
        html! {
            @for value in quarters.map(|part| low + (high - low) * part) {
                line class="grid" x1=(LEFT) x2=(WIDTH) y1=(length(self.y(value))) y2=(length(self.y(value))) {}
                text class="faint" x=(LEFT - 6.0) y=(length(self.y(value) + 4.0)) text-anchor="end" { (short(value)) }
            }
            @for (value, anchor) in [(left, "start"), (f64::midpoint(left, right), "middle"), (right, "end")] {
                text class="faint" x=(length(self.x(value))) y=(length(height - BOTTOM + 16.0)) text-anchor=(anchor) {
                    (short(value)) " " (unit)
                }
            }
        }
    }
}

/// A number in few characters.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.01.. => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_nothing_was_for_a_while() {
        let points = [0.0, 0.1, 0.2, 3.0, 3.1, f64::NAN, 3.2].map(|at| (at, 1.0));
        let lengths: Vec<_> = pieces(&points).iter().map(Vec::len).collect();
        assert_eq!(lengths, [3, 3]);
    }

    #[test]
    fn points_that_are_evenly_far_apart_are_one_line() {
        assert_eq!(pieces(&[(0.0, 1.0), (10.0, 2.0), (20.0, 1.0)]).len(), 1);
        assert_eq!(pieces(&[(0.0, 1.0)]).len(), 1);
        assert!(pieces(&[]).is_empty());
    }
}
