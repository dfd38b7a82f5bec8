//! What was commanded, as a part of the page: the channels over time beside the steps of the plans, and where and why the
//! robot was held or stopped.

use super::command_comparison::CommandComparison;
use super::played_report::{ChannelPlot, PlayedReport, SpanReport, StopReport};
use crate::offline::markup::{Axes, WIDTH, colour, length};
use maud::{Markup, html};

/// Channels in one plot.
const TOGETHER: usize = 3;
/// The most channels that are plotted.
const CHANNELS: usize = 32;
/// The most rows of a table.
const ROWS: usize = 50;
/// Height of a plot, in the units of its view box.
const HEIGHT: f64 = 220.0;

/// The commands that were `played` with the backend of this `name`.
pub fn commands(name: &str, played: &PlayedReport) -> Markup {
    let hidden = played.plots.len().saturating_sub(CHANNELS);
    html! {
        h2 { "Commands, " (name) }
        (numbers(played))
        (reasons(played))
        @for stop in &played.stops {
            p { strong { (format!("Stopped at {:.2} s: ", stop.at_s)) (stop.cause) } ". Nothing is commanded after it." }
        }
        @if !played.plots.is_empty() { (legend(played)) }
        @for group in played.plots.get(..played.plots.len() - hidden).unwrap_or_default().chunks(TOGETHER) {
            (plot(group, played))
        }
        @if hidden > 0 { p { "… and " (hidden) " more channels, which the arrays have" } }
        (spans(played))
    }
}

/// Recorded commands against the plans of the replay.
pub fn comparison(found: &CommandComparison) -> Markup {
    html! {
        h3 { "Recorded commands against the plans of the replay" }
        p {
            (found.compared) " of " (found.recorded) " recorded commands were compared with what the replayed plan of the same "
            "observation says about their moment; " (found.not_of_a_plan) " were held or clamped, and the plan of "
            (found.not_replayed) " was not replayed."
        }
        @if !found.channels.is_empty() {
            table {
                tr { th { "channel" } th { "max |Δ|" } th { "mean |Δ|" } }
                @for channel in &found.channels {
                    tr {
                        td { (channel.name) }
                        td { (format!("{:.2e}", channel.max_abs)) }
                        td { (format!("{:.2e}", channel.mean_abs)) }
                    }
                }
            }
        }
    }
}

fn numbers(played: &PlayedReport) -> Markup {
    let heads = ["commands", "rate, Hz", "held", "clamped", "refused", "plans", "not taken", "reaction p50 / max, ms"];
    let reaction =
        played.reaction_ms.map_or("–".to_owned(), |summary| format!("{:.1} / {:.1}", summary.p50, summary.max));
    let counts = [played.held, played.clamped, played.rejected, played.plans, played.refused_plans];
    html! {
        div class="scroll" {
            table {
                tr { @for head in heads { th { (head) } } }
                tr {
                    td { (played.commands) }
                    td { (format!("{:.0}", played.rate_hz)) }
                    @for count in counts { td { (count) } }
                    td { (reaction) }
                }
            }
        }
    }
}

fn reasons(played: &PlayedReport) -> Markup {
    html! {
        @if !played.reasons.is_empty() {
            h3 { "Why commands were held or clamped, and plans not taken" }
            table {
                tr { th { "led to" } th { "reason, as it was first" } th { "times" } }
                @for reason in played.reasons.iter().take(ROWS) {
                    tr { td { (reason.led_to.replace('_', " ")) } td { (reason.reason) } td { (reason.count) } }
                }
            }
        }
    }
}

fn legend(played: &PlayedReport) -> Markup {
    let which = match played.every_step {
        1 => "the steps of the plans".to_owned(),
        every => format!("one of {every} steps of the plans"),
    };
    html! {
        p {
            "Lines are commands, dots " (which) ". Commands are held where it is "
            span style="background:color-mix(in srgb, var(--faint) 30%, transparent)" { "grey" }
            ", clamped where it is "
            span style="background:color-mix(in srgb, var(--c3) 30%, transparent)" { "violet" }
            "; a "
            span style="color:var(--c4)" { "red" }
            " line is a stop."
        }
    }
}

fn plot(group: &[ChannelPlot], played: &PlayedReport) -> Markup {
    let label = group.iter().map(|channel| channel.name.as_str()).collect::<Vec<_>>().join(", ");
    let lines = group.iter().flat_map(|channel| channel.lines.iter().flatten());
    let spread = lines.chain(group.iter().flat_map(|channel| &channel.dots)).copied();
    let stops = played.stops.iter().map(|stop| stop.at_s);
    let Some(axes) = Axes::around(spread, stops, HEIGHT, true) else {
        return html! { p { (label) ": nothing to show" } };
    };
    html! {
        svg viewBox=(axes.view_box()) role="img" aria-label=(label) {
            @for span in &played.spans { (band(&axes, span, 1.0 / played.rate_hz)) }
            (axes.frame("s"))
            @for stop in &played.stops { (stop_line(&axes, stop)) }
            @for (index, channel) in group.iter().enumerate() {
                @for (at, value) in channel.dots.iter().filter(|(_, value)| value.is_finite()) {
                    circle cx=(length(axes.x(*at))) cy=(length(axes.y(*value))) r="1.8" style={ (colour("fill", index)) ";fill-opacity:.45" } {}
                }
                @for line in &channel.lines {
                    polyline points=(axes.path(line)) style={ "fill:none;stroke-width:1.5;" (colour("stroke", index)) } {}
                }
                (axes.name(index, &channel.name))
            }
        }
    }
}

/// A stop, with its cause on the side where there is more room.
fn stop_line(axes: &Axes, stop: &StopReport) -> Markup {
    let x = axes.x(stop.at_s);
    let (beside, anchor) = if x < WIDTH / 2.0 { (x + 5.0, "start") } else { (x - 5.0, "end") };
    html! {
        line x1=(length(x)) x2=(length(x)) y1=(length(axes.top())) y2=(length(axes.bottom()))
            style="stroke:var(--c4);stroke-width:2" {}
        text x=(length(beside)) y=(length(axes.top() + 12.0)) text-anchor=(anchor) style="fill:var(--c4)" {
            (stop.cause)
        }
    }
}

/// A span in which commands were not their plans' own, the last of which lasted for `period_s`. Even the shortest can be
/// seen.
fn band(axes: &Axes, span: &SpanReport, period_s: f64) -> Markup {
    let (from, to) = (axes.x(span.from_s), axes.x(span.to_s + period_s).min(WIDTH));
    let fill = if span.verdict == "held" { "fill:var(--faint)" } else { "fill:var(--c3)" };
    html! {
        rect x=(length(from)) width=(length((to - from).max(1.0))) y=(length(axes.top()))
            height=(length(axes.bottom() - axes.top())) style={ (fill) ";fill-opacity:.22" } {
            title { (span.verdict) ": " (span.reason) }
        }
    }
}

fn spans(played: &PlayedReport) -> Markup {
    let hidden = played.spans.len().saturating_sub(ROWS) + played.more_spans;
    html! {
        @if !played.spans.is_empty() {
            h3 { "Where commands were not their plans' own" }
            table {
                tr { th { "from, s" } th { "what" } th { "to, s" } th { "commands" } th { "reason" } }
                @for span in played.spans.iter().take(ROWS) {
                    tr {
                        td { (format!("{:.2}", span.from_s)) }
                        td { (span.verdict) }
                        td { (format!("{:.2}", span.to_s)) }
                        td { (span.commands) }
                        td { (span.reason) }
                    }
                }
            }
            @if hidden > 0 { p { "… and " (hidden) " more" } }
        }
    }
}
