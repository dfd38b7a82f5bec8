//! Which matrices stay as they are: those whose change moves the actions most, as few as the held-out samples allow.

use super::candidates::Candidates;
use super::comparison::{Comparison, LayerError, ProductError};
use super::network::Network;
use super::{Event, Keep, Order, VariantError};
use crate::backend::engine::golden::GoldenInputs;
use crate::model::weight::{Watch, Weight};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tch::TchError;

/// Samples that the matrices are ranked by, one changed at a time.
const RANKING_SAMPLES: usize = 2;

/// The raw actions of each sample.
pub type Answers = Vec<Vec<f32>>;

/// A network whose matrices are being chosen, with dense f32's answers to the held-out samples.
pub struct Choice<'a> {
    network: Network,
    candidates: Candidates,
    /// For each group, whether it stays as it is.
    kept: Vec<bool>,
    held_out: &'a [&'a GoldenInputs],
    /// Dense f32's answers to the held-out samples, by number of denoising steps.
    references: BTreeMap<usize, Answers>,
}

impl<'a> Choice<'a> {
    /// Takes a dense network, and notes its answers to the samples that were held out for each number of denoising
    /// steps. All groups stay as they are at first.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn new(
        network: Network,
        candidates: Candidates,
        held_out: &'a [&'a GoldenInputs],
        steps: &[usize],
    ) -> Result<Self, VariantError> {
        let kept = vec![true; candidates.groups.len()];
        let mut choice = Self { network, candidates, kept, held_out, references: BTreeMap::new() };
        for &steps in steps {
            let answers = choice.answers(held_out, steps)?;
            choice.references.insert(steps, answers);
        }
        Ok(choice)
    }

    /// Changes every group but those with a layer of one of `names`, or below one, and those that the format does not
    /// take.
    ///
    /// # Errors
    /// [`VariantError::Unknown`] for a name that no layer has.
    pub fn keep_named(&mut self, names: &[String]) -> Result<(), VariantError> {
        let groups = &self.candidates.groups;
        let layers = || groups.iter().flat_map(|group| &group.names);
        if let Some(unknown) = names.iter().find(|name| !layers().any(|layer| is_below(layer, name))) {
            let first = layers().next().cloned().unwrap_or_default();
            return Err(VariantError::Unknown { name: unknown.clone(), first });
        }
        let is_named = |layer: &String| names.iter().any(|name| is_below(layer, name));
        let kept = groups.iter().map(|group| group.made.is_none() || group.names.iter().any(is_named)).collect();
        self.apply(kept);
        Ok(())
    }

    /// Keeps as few groups as it takes for the held-out samples to be near enough after every number of denoising steps, those
    /// first that alone move the actions of the calibration samples most after `ranked_by` steps.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn decide(
        &mut self,
        calibrating: &[&GoldenInputs],
        order: &Order,
        ranked_by: usize,
        observer: &mut dyn FnMut(Event),
    ) -> Result<(), VariantError> {
        self.keep_named(&[])?;
        if self.is_near(order)? {
            return Ok(());
        }
        let ranked = self.ranked(calibrating.get(..RANKING_SAMPLES).unwrap_or(calibrating), ranked_by, observer)?;
        let (mut too_few, mut enough) = (0, 1);
        loop {
            self.keep_first(&ranked, enough);
            if enough >= ranked.len() || self.is_near(order)? {
                break;
            }
            (too_few, enough) = (enough, (2 * enough).min(ranked.len()));
        }
        while enough - too_few > 1 {
            let between = usize::midpoint(too_few, enough);
            self.keep_first(&ranked, between);
            *(if self.is_near(order)? { &mut enough } else { &mut too_few }) = between;
        }
        self.keep_first(&ranked, enough);
        Ok(())
    }

    /// Whether every matrix stays as it is.
    pub fn changes_nothing(&self) -> bool {
        self.kept.iter().all(|kept| *kept)
    }

    /// Names of the layers that stay as they are.
    pub fn kept(&self) -> Vec<String> {
        let groups = self.candidates.groups.iter().zip(&self.kept);
        groups.filter(|(_, kept)| **kept).flat_map(|(group, _)| group.names.clone()).collect()
    }

    /// What to tell if fewer than half of the matrices differ from the source's, although nobody named those that do not.
    pub fn warning(&self, order: &Order) -> Option<String> {
        let all: usize = self.candidates.groups.iter().map(|group| group.names.len()).sum();
        let changed = all - self.kept().len();
        (order.keep == Keep::Auto && 2 * changed < all).then(|| {
            format!(
                "only {changed} of {all} matrices could be changed within the limits: it gains little over its source (--keep auto)"
            )
        })
    }

    /// Compares the answers to the held-out samples with dense f32's, for each number of denoising steps.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn compare(&mut self) -> Result<BTreeMap<usize, Comparison>, VariantError> {
        if self.held_out.is_empty() {
            return Ok(BTreeMap::new());
        }
        let steps: Vec<usize> = self.references.keys().copied().collect();
        steps.into_iter().map(|steps| Ok((steps, self.comparison(steps)?))).collect()
    }

    /// How far the products of every matrix that is changed are from the dense ones', for the held-out samples as they pass
    /// through the dense network; the furthest first.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn layer_errors(&mut self, steps: usize) -> Result<Vec<LayerError>, VariantError> {
        let kept = self.kept.clone();
        self.apply(vec![true; kept.len()]);
        let mut watched = Vec::new();
        let part = self.candidates.part;
        for ((group, candidate), kept) in self.network.groups(part).iter_mut().zip(&self.candidates.groups).zip(&kept) {
            let Some(made) = candidate.made.as_ref().filter(|_| !kept) else { continue };
            for (((name, layer), dense), made) in group.layers.iter_mut().zip(&candidate.dense).zip(made) {
                let error = Arc::new(Mutex::new(ProductError::new(dense.share(), made.share())));
                layer.watch = Some(Watch::new(error.clone()));
                watched.push((name.clone(), error));
            }
        }
        let answered = self.answers(self.held_out, steps);
        for group in &mut self.network.groups(part) {
            group.layers.iter_mut().for_each(|(_, layer)| layer.watch = None);
        }
        self.apply(kept);
        answered?;
        let error = |(layer, error): (String, Arc<Mutex<ProductError>>)| LayerError {
            layer,
            relative_error: error.lock().unwrap_or_else(PoisonError::into_inner).relative_error(),
        };
        let mut errors: Vec<LayerError> = watched.into_iter().map(error).collect();
        errors.sort_by(|a, b| b.relative_error.total_cmp(&a.relative_error));
        Ok(errors)
    }

    /// The answers to the first `most` held-out samples of a network that is certainly wrong: the rows of every matrix that
    /// is changed are in reverse order.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn wrong_answers(&mut self, most: usize, steps: usize) -> Result<Answers, VariantError> {
        self.exchange_changed(Weight::with_rows_reversed)?;
        let answers = self.answers(self.held_out.get(..most).unwrap_or(self.held_out), steps);
        self.exchange_changed(|weight| Ok(weight.share()))?;
        answers
    }

    /// Dense f32's answers to the held-out samples, by number of denoising steps.
    pub fn references(&self) -> &BTreeMap<usize, Answers> {
        &self.references
    }

    /// The matrices that are changed, by their names.
    pub fn into_matrices(self) -> BTreeMap<String, Weight> {
        let groups = self.candidates.groups.into_iter().zip(self.kept).filter(|(_, kept)| !kept);
        let matrices = groups.flat_map(|(group, _)| group.names.into_iter().zip(group.made.unwrap_or_default()));
        matrices.collect()
    }

    fn answers(&mut self, samples: &[&GoldenInputs], steps: usize) -> Result<Answers, VariantError> {
        samples.iter().map(|sample| Ok(self.network.answer(sample, steps)?)).collect()
    }

    fn comparison(&mut self, steps: usize) -> Result<Comparison, VariantError> {
        let answers = self.answers(self.held_out, steps)?;
        let references = self.references.get(&steps).map_or(&[][..], Vec::as_slice);
        Ok(Comparison::of(references, &answers, self.network.channels()))
    }

    fn is_near(&mut self, order: &Order) -> Result<bool, VariantError> {
        let numbers: Vec<usize> = self.references.keys().copied().collect();
        for steps in numbers {
            if !order.allows(&self.comparison(steps)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts what `of` makes of every matrix that is changed in its place.
    fn exchange_changed(&mut self, of: impl Fn(&Weight) -> Result<Weight, TchError>) -> Result<(), VariantError> {
        let part = self.candidates.part;
        for (index, (group, kept)) in self.candidates.groups.iter().zip(&self.kept).enumerate() {
            if let Some(made) = group.made.as_ref().filter(|_| !kept) {
                let weights: Vec<Weight> = made.iter().map(&of).collect::<Result<_, _>>()?;
                self.network.exchange(part, index, &weights);
            }
        }
        Ok(())
    }

    /// Indices of the groups that can be changed, that first whose change alone moves the actions most.
    fn ranked(
        &mut self,
        samples: &[&GoldenInputs],
        steps: usize,
        observer: &mut dyn FnMut(Event),
    ) -> Result<Vec<usize>, VariantError> {
        let count = self.kept.len();
        self.apply(vec![true; count]);
        let references = self.answers(samples, steps)?;
        let mut errors = Vec::new();
        for index in 0..count {
            observer(Event::Answered { stage: "ranking the matrices", done: index + 1, total: count });
            if self.candidates.groups.get(index).is_none_or(|group| group.made.is_none()) {
                continue;
            }
            self.apply((0..count).map(|other| other != index).collect());
            let answers = self.answers(samples, steps)?;
            errors.push((index, Comparison::of(&references, &answers, self.network.channels()).relative_error));
        }
        errors.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Ok(errors.into_iter().map(|(index, _)| index).collect())
    }

    /// Changes every group but the first `count` of `ranked`.
    fn keep_first(&mut self, ranked: &[usize], count: usize) {
        let kept = ranked.get(..count).unwrap_or(ranked);
        let groups = self.candidates.groups.iter().enumerate();
        let kept = groups.map(|(index, group)| group.made.is_none() || kept.contains(&index)).collect();
        self.apply(kept);
    }

    /// Exchanges the matrices of every group that is not as `kept` says.
    fn apply(&mut self, kept: Vec<bool>) {
        let part = self.candidates.part;
        for (index, (group, (before, after))) in
            self.candidates.groups.iter().zip(self.kept.iter().zip(&kept)).enumerate()
        {
            match (before, after, &group.made) {
                (true, false, Some(made)) => self.network.exchange(part, index, made),
                (false, true, _) => self.network.exchange(part, index, &group.dense),
                _ => {}
            }
        }
        self.kept = kept;
    }
}

/// Whether `layer` is called `name` or lies below it.
fn is_below(layer: &str, name: &str) -> bool {
    let name = name.trim_end_matches('.');
    layer.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn a_layer_is_below_its_block_and_not_below_one_that_only_begins_alike() {
        assert!(is_below("transformer.blocks.1.attn.qkv", "transformer.blocks.1"));
        assert!(is_below("transformer.blocks.1.attn.qkv", "transformer.blocks.1."));
        assert!(is_below("transformer.blocks.1.attn.qkv", "transformer.blocks.1.attn.qkv"));
        assert!(!is_below("transformer.blocks.12.attn.qkv", "transformer.blocks.1"));
    }
}
