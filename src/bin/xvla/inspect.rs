//! `xvla checkpoint inspect`: prints the description of a checkpoint.

use crate::output;
use anyhow::bail;
use clap::Parser;
use serde::Serialize;
use std::path::PathBuf;
use xvla_ros::error::listed;
use xvla_ros::model::variant::{GateLimits, Variant};
use xvla_ros::offline::fact_sheet::{FactSheet, fact_sheet};
use xvla_ros::offline::inspect::{AdapterFacts, Inspection, inspect};
use xvla_ros::pipeline::Folders;

/// Describe a checkpoint and list everything that keeps it from loading.
///
/// Reads configuration and headers only: milliseconds for any size. Exit code 1 if the checkpoint would not load.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  xvla checkpoint inspect X-VLA-Libero --json | jq .parameters")]
pub struct Args {
    /// Folder with config.json and model.safetensors.
    #[arg(value_name = "DIR")]
    checkpoint: PathBuf,
    /// Folder of a LoRA adapter (PEFT) that is merged into the checkpoint's weights.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Robot whose facts to add: libero, widowx, ... or a YAML file.
    #[arg(long, value_name = "NAME")]
    embodiment: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Everything that is printed.
#[derive(Serialize)]
struct Description<'a> {
    #[serde(flatten)]
    checkpoint: &'a Inspection,
    #[serde(flatten)]
    robot: &'a FactSheet,
}

/// Prints the description; fails if the checkpoint would not load.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut found = inspect(Folders::new(&args.checkpoint, args.adapter.as_deref()))?;
    let robot = fact_sheet(Folders::new(&args.checkpoint, args.adapter.as_deref()), args.embodiment.as_deref())?;
    if let Some(layout) = robot.rotation_6d {
        found.actions.name_rotations(layout);
    }
    if args.json {
        output::print_json(&Description { checkpoint: &found, robot: &robot })?;
    } else {
        output::print(&text(&found, &robot))?;
    }
    match found.problems.as_slice() {
        [] => Ok(()),
        [only] => bail!("{only}"),
        [first, rest @ ..] => bail!("{first} (and {} more problems, listed on stdout)", rest.len()),
    }
}

fn text(found: &Inspection, robot: &FactSheet) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<16}{value}"));
    let (sizes, inputs, actions) = (&found.sizes, &found.inputs, &found.actions);

    line("checkpoint", found.checkpoint.display().to_string());
    line("layout", found.layout.to_owned());
    for file in &found.files {
        line("weights", format!("{} ({})", file.path.display(), output::size(file.bytes)));
    }
    if let Some(adapter) = &found.adapter {
        line("adapter", adapter_line(adapter));
    }
    if let Some(variant) = &found.variant {
        line("variant", variant_line(variant));
        line("gate", variant.gate.as_ref().map_or_else(|| "none: it was never compared".to_owned(), gate_line));
    }
    let dtypes: Vec<String> =
        found.tensors_by_dtype.iter().map(|(dtype, count)| format!("{count} in {dtype}")).collect();
    line("tensors", format!("{}, {} of them for training only", dtypes.join(", "), found.training_only_tensors));
    let counts = found.parameters;
    let millions = |count: u64| format!("{:.1} M", count as f64 / 1e6);
    line(
        "parameters",
        format!(
            "{} (vision {}, text {}, policy {})",
            millions(counts.total),
            millions(counts.vision),
            millions(counts.text),
            millions(counts.policy)
        ),
    );
    line(
        "vision",
        format!("DaViT {:?} wide, {:?} deep, window {}", sizes.vision_widths, sizes.vision_depths, sizes.vision_window),
    );
    line(
        "text",
        format!("{} layers, {} wide, vocabulary {}", sizes.text_layers, sizes.projection_dim, sizes.vocabulary),
    );
    line(
        "policy",
        format!(
            "{} blocks, {} wide, {} heads, {} soft prompts, {} token projections, at most {} positions",
            sizes.policy_depth,
            sizes.policy_hidden,
            sizes.policy_heads,
            sizes.soft_prompts,
            if sizes.hetero_projections { "per-domain" } else { "shared" },
            sizes.max_len_seq
        ),
    );
    line(
        "inputs",
        format!(
            "{} view(s) of {}x{} px ({}), {} tokens each; {} text tokens; {} proprioception channels; {} domains",
            inputs.views,
            inputs.image_width,
            inputs.image_height,
            inputs.resize,
            inputs.tokens_per_view,
            inputs.text_tokens,
            inputs.proprio_dim,
            inputs.domains
        ),
    );
    // An embodiment gives names to cameras that have none.
    if !robot.facts.iter().any(|fact| fact.name == "cameras") {
        line("cameras", found.cameras.join(" "));
    }
    for (robot, policy) in &found.rename {
        line("renamed", format!("{robot} is the policy's {policy}"));
    }
    line("state", format!("{} (kind: {})", found.state.expected, found.state.kind));
    line(
        "actions",
        format!(
            "{}: chunks of {}, {} channels of the network, {} of the robot",
            actions.mode, actions.chunk_length, actions.model_dim, actions.real_dim
        ),
    );
    line("channels", actions.names.join(" "));
    if !actions.relative_to_state.is_empty() || !actions.masked_state.is_empty() {
        line(
            "auto space",
            format!(
                "channels {:?} are predicted relative to the state; the network does not see channels {:?} of it",
                actions.relative_to_state, actions.masked_state
            ),
        );
    }
    line("denoising steps", found.denoising_steps.to_string());
    line("processors", found.processors_in_words.clone());
    line("tokenizer", found.tokenizer_ids.map_or("none".to_owned(), |ids| format!("{ids} ids")));
    for fact in &robot.facts {
        line("fact", format!("{:<26} {:<26} {}", fact.name, fact.value, fact.origin));
    }
    robot.warnings.iter().for_each(|warning| line("note", warning.clone()));
    robot.open.iter().for_each(|open| line("open", open.clone()));
    line(
        "embodiments",
        if robot.embodiments.is_empty() { "none fits".to_owned() } else { robot.embodiments.join(", ") },
    );
    found.notes.iter().for_each(|note| line("note", note.clone()));
    found.problems.iter().for_each(|problem| line("PROBLEM", problem.clone()));
    lines.join("\n")
}

fn adapter_line(adapter: &AdapterFacts) -> String {
    let base = adapter.base.as_ref().map_or(String::new(), |base| format!(", trained on `{base}`"));
    format!(
        "{} ({}): LoRA of {} tensors, {} replaced{base}; sha256 {}",
        adapter.folder.display(),
        output::size(adapter.bytes),
        adapter.low_rank_tensors,
        adapter.replaced_tensors,
        adapter.sha256
    )
}

fn variant_line(variant: &Variant) -> String {
    const SHOWN: usize = 8;
    let names_all = if variant.kept.len() > SHOWN { " (--json names all)" } else { "" };
    format!(
        "{}: {} matrices of {} ({}), for domain {} alone, left as they were: {}{names_all}; source sha256 {}",
        variant.method.name(),
        variant.matrices,
        variant.scope.name(),
        variant.criterion,
        variant.domain,
        listed(&variant.kept, SHOWN),
        variant.source_sha256
    )
}

fn gate_line(gate: &GateLimits) -> String {
    let steps = gate.steps.keys().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let least = gate.steps.values().map(|limits| limits.least_cosine).fold(f64::NAN, f64::min);
    format!(
        "{} held-out sample{}, after {steps} denoising step{}: a cosine with dense f32 of at least {least}",
        gate.samples,
        output::plural(gate.samples),
        if steps == "1" { "" } else { "s" },
    )
}
