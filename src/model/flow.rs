//! The denoising loop, generic over the network.
//!
//! X-VLA predicts the clean action, not a velocity: from noise x₁, for i = N..1 with t = i/N,
//! x_t = x₁·t + a·(1−t) and a = network(x_t, t), beginning with a = 0 (X-VLA's `generate_actions`).

use super::TensorResult;
use tch::Tensor;

/// Runs `steps` steps (at least one) from `noise` [B, T, A]; `network` maps (x_t, t) to a prediction of that shape.
pub fn denoise(noise: &Tensor, steps: usize, mut network: impl FnMut(&Tensor, f32) -> TensorResult) -> TensorResult {
    // The first step sees pure noise at t = 1.
    let mut actions = network(noise, 1.0)?;
    for step in (1..steps).rev() {
        // In single precision, as the reference computes it.
        let t = step as f32 / steps as f32;
        let kept = actions.f_mul_scalar(f64::from(1.0 - t))?;
        let x_t = noise.f_mul_scalar(f64::from(t))?.f_add(&kept)?;
        actions = network(&x_t, t)?;
    }
    Ok(actions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_shows_the_network_pure_noise_at_time_one() {
        let noise = Tensor::from_slice(&[1.0f32, -2.0]);
        let mut seen = Vec::new();
        let actions = denoise(&noise, 1, |x, t| {
            seen.push(t);
            x.f_mul_scalar(10.0)
        });
        assert_eq!(Vec::<f32>::try_from(actions.unwrap()).unwrap(), [10.0, -20.0]);
        assert_eq!(seen, [1.0]);
    }

    #[test]
    fn a_network_that_knows_the_answer_is_believed_at_any_number_of_steps() {
        let noise = Tensor::from_slice(&[1.0f32]);
        for steps in [1, 4, 10] {
            let actions = denoise(&noise, steps, |_, _| Tensor::f_from_slice(&[0.5f32])).unwrap();
            assert_eq!(actions.double_value(&[0]), 0.5);
        }
    }

    #[test]
    fn noise_and_prediction_are_mixed_by_time() {
        let noise = Tensor::from_slice(&[8.0f32]);
        let mut seen = Vec::new();
        let _ = denoise(&noise, 4, |x, _| {
            seen.push(x.double_value(&[0]));
            Tensor::f_from_slice(&[4.0f32])
        })
        .unwrap();
        assert_eq!(seen, [8.0, 7.0, 6.0, 5.0]);
    }

    #[test]
    fn no_steps_counts_as_one() {
        let mut calls = 0;
        let _ = denoise(&Tensor::from_slice(&[1.0f32]), 0, |x, _| {
            calls += 1;
            Ok(x.shallow_clone())
        })
        .unwrap();
        assert_eq!(calls, 1);
    }
}
