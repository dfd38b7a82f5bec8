//! The denoising loop, generic over the network.
//!
//! X-VLA predicts the clean action, not a velocity: from noise x₁, for i = N..1 with t = i/N,
//! x_t = x₁·t + a·(1−t) and a = network(x_t, t), beginning with a = 0 (X-VLA's `generate_actions`).

use tch::{TchError, Tensor};

/// The times of `steps` denoising steps (at least one), in the order in which they run: 1, (N−1)/N, …, 1/N.
pub fn times(steps: usize) -> Vec<f32> {
    let steps = steps.max(1);
    // The reference computes the times in single precision, so this does as well.
    (1..=steps).rev().map(|step| step as f32 / steps as f32).collect()
}

/// Runs one step for each of `times`, from `noise` [B, T, A]; `network` maps x_t and the step's index into `times` to
/// a prediction of that shape.
///
/// # Errors
/// The errors of the network and of libtorch.
pub fn denoise<E: From<TchError>>(
    noise: &Tensor,
    times: &[f32],
    mut network: impl FnMut(&Tensor, usize) -> Result<Tensor, E>,
) -> Result<Tensor, E> {
    // The first step sees pure noise at t = 1.
    let mut actions = network(noise, 0)?;
    for (step, &t) in times.iter().enumerate().skip(1) {
        let kept = actions.f_mul_scalar(f64::from(1.0 - t))?;
        let x_t = noise.f_mul_scalar(f64::from(t))?.f_add(&kept)?;
        actions = network(&x_t, step)?;
    }
    Ok(actions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_sees_pure_noise_and_time_falls_from_one_to_one_nth() {
        assert_eq!(times(4), [1.0, 0.75, 0.5, 0.25]);
        let noise = Tensor::from_slice(&[1.0f32, -2.0]);
        let mut seen = Vec::new();
        let actions = denoise(&noise, &times(1), |x, step| {
            seen.push(step);
            x.f_mul_scalar(10.0)
        });
        assert_eq!(Vec::<f32>::try_from(actions.unwrap()).unwrap(), [10.0, -20.0]);
        assert_eq!(seen, [0]);
    }

    #[test]
    fn a_constant_prediction_is_the_result_at_any_number_of_steps() {
        let noise = Tensor::from_slice(&[1.0f32]);
        for steps in [1, 4, 10] {
            let actions = denoise(&noise, &times(steps), |_, _| Tensor::f_from_slice(&[0.5f32])).unwrap();
            assert_eq!(actions.double_value(&[0]), 0.5);
        }
    }

    #[test]
    fn noise_and_prediction_are_mixed_by_time() {
        let noise = Tensor::from_slice(&[8.0f32]);
        let mut seen = Vec::new();
        let _ = denoise(&noise, &times(4), |x, _| {
            seen.push(x.double_value(&[0]));
            Tensor::f_from_slice(&[4.0f32])
        })
        .unwrap();
        assert_eq!(seen, [8.0, 7.0, 6.0, 5.0]);
    }

    #[test]
    fn no_steps_counts_as_one() {
        assert_eq!(times(0), [1.0]);
    }
}
