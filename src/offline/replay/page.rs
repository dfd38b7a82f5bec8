//! A replay as one self-contained page.

use super::commands_page;
use super::report::{Report, RunReport};
use crate::offline::markup::{self, Series, line_plot};
use crate::pipeline::latency::Summary;
use maud::{Markup, html};

/// The most channels of which actions are plotted.
const CHANNELS: usize = 32;

/// The page.
pub fn page(report: &Report) -> String {
    let stages = report.runs.iter().filter_map(|run| Some((name(run), run.stages?)));
    let body = html! {
        h1 { "X-VLA replay: " (report.bag.display()) }
        @if report.interrupted { p { strong { "Interrupted: this is a part of the bag." } } }
        @if let Some(failure) = &report.failure { p { strong { "Not every backend ran: " (failure) } } }
        (overview(report))
        @if report.runs.iter().any(|run| run.stages.is_some()) { (markup::latency_table(stages)) }
        (ages(report))
        (frames(report))
        (actions(report))
        @for run in &report.runs {
            @if let Some(played) = &run.played { (commands_page::commands(name(run), played)) }
        }
        (comparison(report))
        (health(report))
        (problems(report))
        (configuration(report))
    };
    markup::document("X-VLA replay", &body)
}

fn name(run: &RunReport) -> &str {
    if run.backend.is_empty() { "no inference" } else { &run.backend }
}

fn overview(report: &Report) -> Markup {
    let heads = [
        "backend",
        "recorded",
        "observations",
        "chunks",
        "failed",
        "superseded",
        "withdrawn",
        "age p50 / p99, ms",
        "skew p50 / p99, ms",
        "max |Δ|",
    ];
    let two = |summary: Option<Summary>| {
        summary.map_or("–".to_owned(), |summary| format!("{:.1} / {:.1}", summary.p50, summary.p99))
    };
    html! {
        div class="scroll" {
            table {
                tr { @for head in heads { th { (head) } } }
                @for run in &report.runs {
                    tr {
                        td { (name(run)) }
                        td { (format!("{:.1} s", run.recorded_s)) }
                        td { (run.observations) }
                        td { (run.chunks) }
                        td { (run.failed) }
                        td { (run.superseded) }
                        td { (run.withdrawn) }
                        td { (two(run.observation_age_ms)) }
                        td { (two(run.skew_ms)) }
                        td { (run.max_abs_delta.map_or("–".to_owned(), |delta| format!("{delta:.2e}"))) }
                    }
                }
            }
        }
    }
}

fn ages(report: &Report) -> Markup {
    let series = report.runs.iter().map(|run| Series {
        name: name(run),
        points: run.answers.iter().map(|answer| (answer.at_s, answer.age_ms)).collect(),
    });
    let series: Vec<Series> = series.collect();
    html! {
        h2 { "Age of the oldest input when its chunk was published, ms" }
        (line_plot("Age of observations over time", "s", 240.0, false, &series))
    }
}

/// What became of the frames, over time for the first backend and in numbers for all.
fn frames(report: &Report) -> Markup {
    let heads = ["backend", "camera", "received", "used", "skipped", "repeated", "invalid", "lost (estimate)"];
    html! {
        h2 { "Frames" }
        div class="scroll" {
            table {
                tr { @for head in heads { th { (head) } } }
                @for run in &report.runs {
                    @for camera in &run.cameras {
                        tr {
                            td { (name(run)) }
                            td { (camera.camera) }
                            @for count in [
                                camera.received, camera.used, camera.skipped, camera.repeated, camera.invalid, camera.lost
                            ] { td { (count) } }
                        }
                    }
                }
            }
        }
        @if let Some(run) = report.runs.first() {
            h2 { "Frames dropped per second, " (name(run)) }
            (line_plot("Frames dropped per second", "s", 200.0, false, &dropped(run)))
        }
    }
}

/// Frames that were not used, per second, of each camera.
fn dropped(run: &RunReport) -> Vec<Series<'_>> {
    let cameras = run.cameras.iter().enumerate();
    cameras
        .map(|(index, camera)| {
            let pairs = run.seconds.iter().zip(run.seconds.iter().skip(1));
            let points = pairs.filter_map(|(before, after)| {
                let count = |second: &super::report::Second| {
                    second.cameras.get(index).map(|camera| camera.skipped + camera.repeated + camera.invalid)
                };
                let span_s = (after.at_s - before.at_s).max(1e-3);
                Some((after.at_s, count(after)?.saturating_sub(count(before)?) as f64 / span_s))
            });
            Series { name: &camera.camera, points: points.collect() }
        })
        .collect()
}

/// The first action of every chunk, a plot per channel.
fn actions(report: &Report) -> Markup {
    let names = report.runs.first().map(|run| run.action_names.as_slice()).unwrap_or_default();
    html! {
        @if !names.is_empty() {
            h2 { "First action of every chunk, by channel" }
            @for (channel, name_of_channel) in names.iter().enumerate().take(CHANNELS) {
                h3 { (name_of_channel) }
                (line_plot(name_of_channel, "s", 170.0, true, &report.runs.iter().map(|run| Series {
                    name: name(run),
                    points: run.answers.iter().filter_map(|answer| {
                        let value = answer.first_action.get(channel)?;
                        Some((answer.at_s, f64::from(*value)))
                    }).collect(),
                }).collect::<Vec<_>>()))
            }
            @if names.len() > CHANNELS { p { "… and " (names.len() - CHANNELS) " more channels, which the JSON has" } }
        }
    }
}

fn comparison(report: &Report) -> Markup {
    const SHOWN: usize = 200;
    html! {
        @if let Some(comparison) = &report.comparison {
            h2 { "Against the chunks in the bag" }
            p {
                (comparison.same) " of " (comparison.recorded) " recorded chunks ("
                (format!("{:.1} %", comparison.same_share * 100.0)) ") are on the same observations; the replay has "
                (comparison.replayed) "."
            }
            @if !comparison.notes.is_empty() { ul { @for note in &comparison.notes { li { (note) } } } }
            table {
                tr { th { "channel" } th { "max |Δ|" } th { "mean |Δ|" } }
                @for channel in &comparison.channels {
                    tr {
                        td { (channel.name) }
                        td { (format!("{:.2e}", channel.max_abs)) }
                        td { (format!("{:.2e}", channel.mean_abs)) }
                    }
                }
            }
            @if let Some(commands) = &comparison.commands { (commands_page::comparison(commands)) }
            @if !comparison.differences.is_empty() {
                table {
                    tr { th { "observation, ns" } th { "chosen by" } th { "why" } }
                    @for difference in comparison.differences.iter().take(SHOWN) {
                        tr { td { (difference.reference_ns) } td { (difference.chosen_by) } td { (difference.why) } }
                    }
                }
                @if comparison.differences.len() > SHOWN {
                    p { "… and " (comparison.differences.len() - SHOWN) " more, which the JSON has" }
                }
            }
        }
    }
}

fn health(report: &Report) -> Markup {
    const SHOWN: usize = 100;
    html! {
        @if let Some(run) = report.runs.first() {
            h2 { "Health of the inputs" }
            table {
                tr { th { "at, s" } th { "level" } th { "may act" } th { "reason" } }
                @for change in run.health.iter().take(SHOWN) {
                    tr {
                        td { (format!("{:.2}", change.at_s)) }
                        td { (change.level) }
                        td { (if change.may_act { "yes" } else { "no" }) }
                        td { (change.reason) }
                    }
                }
            }
            @if run.health.len() > SHOWN { p { "… and " (run.health.len() - SHOWN) " more changes" } }
        }
    }
}

fn problems(report: &Report) -> Markup {
    html! {
        @if !report.problems.is_empty() {
            h2 { "What is wrong with the bag" }
            ul { @for problem in &report.problems { li { (problem) } } }
        }
    }
}

fn configuration(report: &Report) -> Markup {
    let (how, machine, versions) = (&report.configuration, &report.machine, &report.versions);
    let recorded = if how.as_recorded { "that of the chunk in the bag, or else " } else { "" };
    let latency = how.latency_ms.map_or("as long as it took".to_owned(), |ms| format!("{ms} ms"));
    let facts = [
        ("checkpoint", how.checkpoint.display().to_string()),
        ("runs on", format!("{}, {}", how.device, how.dtype)),
        ("recorded time", format!("by {}", if how.timeline == "header" { "the stamps of headers" } else { "receipt" })),
        ("an inference lasts", format!("{recorded}{latency}")),
        ("seed of the noise", format!("{recorded}{}", how.seed)),
        ("processor", format!("{} ({} cores)", machine.cpu.as_deref().unwrap_or("unknown"), machine.cores)),
        ("xvla_ros", versions.xvla_ros.to_owned()),
        ("libtorch", versions.libtorch.clone()),
    ];
    html! {
        h2 { "Configuration" }
        dl {
            @for (name, value) in facts { dt { (name) } dd { (value) } }
            @for run in &report.runs {
                dt { (name(run)) }
                dd {
                    (format!(
                        "{:.1} s, of which {:.1} s are inference; {:.0} times as fast as recorded without that",
                        run.wall_s, run.inferring_s, run.speed_without_inference
                    ))
                }
            }
        }
    }
}
