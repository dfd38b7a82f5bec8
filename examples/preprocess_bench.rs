//! Times image preparation: `preprocess_bench ROUNDS SIZE IMAGE…` resizes the images to SIZE x SIZE with
//! antialiased bicubic, normalises them to [V, 3, SIZE, SIZE], and prints the milliseconds of each round
//! (all images) as JSON. `tools/bench_preprocess.py` runs it against Pillow.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use xvla_ros::transform::image::ImageTransform;
use xvla_ros::types::ResizeMode;
use xvla_ros::types::RgbImage;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, size, paths @ ..] = arguments.as_slice() else {
        bail!("usage: preprocess_bench ROUNDS SIZE IMAGE...");
    };
    let rounds: usize = rounds.parse().context("ROUNDS")?;
    let size: usize = size.parse().context("SIZE")?;
    let images = paths.iter().map(open).collect::<Result<Vec<_>>>()?;

    let mut transform = ImageTransform::new(size, size, ResizeMode::Bicubic);
    let mut planes = vec![0.0_f32; images.len() * transform.output_len()];
    let mut milliseconds = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        for (image, view) in images.iter().zip(planes.chunks_exact_mut(transform.output_len())) {
            transform.apply(image, view)?;
        }
        milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let checksum: f64 = planes.iter().copied().map(f64::from).sum();
    println!("{}", serde_json::json!({ "milliseconds": milliseconds, "checksum": checksum }));
    Ok(())
}

fn open(path: &String) -> Result<RgbImage> {
    let image = image::open(path).with_context(|| path.clone())?.into_rgb8();
    RgbImage::new(image.width() as usize, image.height() as usize, image.into_raw()).context("empty image")
}
