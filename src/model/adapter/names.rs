//! The names that PEFT gives to an adapter's tensors, and the base's tensors that they belong to.

use crate::model::layout::{IMAGE_PROJECTION, Layout};
use std::collections::{BTreeMap, HashMap};

/// What one tensor of an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A of a Linear: [r, in].
    A,
    /// B of a Linear: [out, r].
    B,
    /// A of an Embedding: [r, rows].
    EmbeddingA,
    /// B of an Embedding: [width, r].
    EmbeddingB,
    /// The whole tensor, which takes the place of the base's.
    Whole,
}

/// A tensor of an adapter: the parameter of the base model that it belongs to, and what it is of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The module's dotted name in the base model; of a whole tensor the name of the parameter.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The adapter that it belongs to, if the name says so.
    pub adapter: Option<String>,
}

/// Reads the name of a stored tensor: `base_model.model.<module>.lora_A.weight`, with `.default` or another adapter's name
/// after `lora_A` where older versions of PEFT or whole state dictionaries have it.
///
/// # Errors
/// The method that a tensor of that name belongs to, if it is not LoRA.
pub fn parse(stored: &str) -> Result<Part, &'static str> {
    let name = stored.strip_prefix("base_model.model.").unwrap_or(stored);
    let words: Vec<&str> = name.split('.').collect();
    let is_marked =
        |word: &&str| word.starts_with("lora_") || ["modules_to_save", "base_layer", "token_adapter"].contains(word);
    let Some(at) = words.iter().position(is_marked) else {
        return Ok(Part { name: name.to_owned(), role: Role::Whole, adapter: None });
    };
    let (module, mark, rest) = match words.split_at(at) {
        (module, [mark, rest @ ..]) => (module.join("."), *mark, rest),
        (_, []) => return Err("of no known kind"),
    };
    let part = |role, adapter: Option<&str>| Part { name: module.clone(), role, adapter: adapter.map(str::to_owned) };
    let whole = |parameter: &[&str], adapter: Option<&str>| Part {
        name: format!("{module}.{}", parameter.join(".")),
        role: Role::Whole,
        adapter: adapter.map(str::to_owned),
    };
    match (mark, rest) {
        ("lora_A", ["weight"]) => Ok(part(Role::A, None)),
        ("lora_A", [adapter, "weight"]) => Ok(part(Role::A, Some(adapter))),
        ("lora_B", ["weight"]) => Ok(part(Role::B, None)),
        ("lora_B", [adapter, "weight"]) => Ok(part(Role::B, Some(adapter))),
        ("lora_A" | "lora_B", [.., "bias"]) => Err("a bias of LoRA's, which is not supported"),
        ("lora_embedding_A", []) => Ok(part(Role::EmbeddingA, None)),
        ("lora_embedding_A", [adapter]) => Ok(part(Role::EmbeddingA, Some(adapter))),
        ("lora_embedding_B", []) => Ok(part(Role::EmbeddingB, None)),
        ("lora_embedding_B", [adapter]) => Ok(part(Role::EmbeddingB, Some(adapter))),
        ("lora_magnitude_vector", _) => Err("of DoRA, which is not supported"),
        ("modules_to_save", [adapter, parameter @ ..]) if !parameter.is_empty() => Ok(whole(parameter, Some(adapter))),
        ("base_layer", parameter) if !parameter.is_empty() => Ok(whole(parameter, None)),
        _ => Err("of no known kind"),
    }
}

/// A tensor of the base that an adapter's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its stored name.
    pub stored: String,
    /// Whether the adapter's module holds it the other way round: native `transformers` has a Linear for the projection of
    /// images, the original release a bare matrix.
    pub transposed: bool,
}

/// Finds the base's tensors by the names of modules in any layout: an adapter may have been trained on another copy of
/// the same model than the base that is given.
#[derive(Debug)]
pub struct BaseNames<'a> {
    layout: &'a Layout,
    /// The stored name by its name without the layout's prefix.
    stored: HashMap<&'a str, &'a str>,
    /// The stored name by its name in native `transformers`.
    native: BTreeMap<String, &'a str>,
}

impl<'a> BaseNames<'a> {
    /// The names of a base that stores `stored` in `layout`.
    pub fn new(stored: impl Iterator<Item = &'a str>, layout: &'a Layout) -> Self {
        let native = Layout { prefix: String::new(), native: true };
        let mut names = Self { layout, stored: HashMap::new(), native: BTreeMap::new() };
        for name in stored {
            let own = name.strip_prefix(layout.prefix.as_str()).unwrap_or(name);
            names.stored.insert(own, name);
            if !layout.native {
                names.native.insert(native.stored_name(own), name);
            }
        }
        names
    }

    /// The stored tensor that is `parameter` of the base model as the trainer saw it.
    pub fn find(&self, parameter: &str) -> Option<Found> {
        // Of two names for one tensor, a base with tied embeddings stores the encoder's.
        let tied =
            || parameter.strip_suffix(".shared.weight").map(|model| format!("{model}.encoder.embed_tokens.weight"));
        self.find_stored(parameter).or_else(|| self.find_stored(&tied()?))
    }

    fn find_stored(&self, parameter: &str) -> Option<Found> {
        let prefix = self.layout.prefix.as_str();
        let lerobots = parameter.strip_prefix("model.");
        let own = parameter.strip_prefix(prefix).filter(|_| !prefix.is_empty());
        for name in [own, Some(parameter), lerobots].into_iter().flatten() {
            if let Some(stored) = self.stored.get(name) {
                return Some(Found { stored: (*stored).to_owned(), transposed: false });
            }
            if let Some(stored) = self.native.get(name) {
                return Some(Found { stored: (*stored).to_owned(), transposed: stored.ends_with(IMAGE_PROJECTION) });
            }
            if self.layout.native {
                let stored = self.layout.stored_name(name);
                let own = stored.strip_prefix(prefix).unwrap_or(&stored);
                if let Some(stored) = self.stored.get(own) {
                    return Some(Found { stored: (*stored).to_owned(), transposed: name == IMAGE_PROJECTION });
                }
            }
        }
        None
    }

    /// Whether only training needs `parameter`, so that it is no fault of an adapter to change what no base stores.
    pub fn training_only(&self, parameter: &str) -> bool {
        let bare = Layout { prefix: String::new(), native: false };
        let name = parameter.strip_prefix(self.layout.prefix.as_str()).unwrap_or(parameter);
        bare.training_only(name.strip_prefix("model.").unwrap_or(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_spellings_are_the_same_tensors() {
        for (stored, name, role, adapter) in [
            ("base_model.model.a.b.lora_A.weight", "a.b", Role::A, None),
            ("base_model.model.a.b.lora_B.default.weight", "a.b", Role::B, Some("default")),
            ("base_model.model.a.lora_embedding_A", "a", Role::EmbeddingA, None),
            ("base_model.model.a.lora_embedding_B.default", "a", Role::EmbeddingB, Some("default")),
            ("base_model.model.a.modules_to_save.default.fc.weight", "a.fc.weight", Role::Whole, Some("default")),
            ("base_model.model.a.fc.weight", "a.fc.weight", Role::Whole, None),
            ("base_model.model.a.base_layer.bias", "a.bias", Role::Whole, None),
        ] {
            let adapter = adapter.map(str::to_owned);
            assert_eq!(parse(stored), Ok(Part { name: name.to_owned(), role, adapter }), "{stored}");
        }
    }

    #[test]
    fn tensors_of_other_methods_are_told_apart() {
        for (stored, expected) in [
            ("base_model.model.a.lora_magnitude_vector.weight", "of DoRA"),
            ("base_model.model.a.lora_B.bias", "a bias of LoRA's"),
            ("base_model.model.a.lora_C.weight", "of no known kind"),
            ("base_model.model.a.token_adapter.trainable_tokens_delta", "of no known kind"),
        ] {
            assert!(parse(stored).unwrap_err().starts_with(expected), "{stored}");
        }
    }

    /// The name that is found for `parameter` in a base of `prefix` and dialect.
    fn find(stored: &str, prefix: &str, native: bool, parameter: &str) -> Option<Found> {
        let layout = Layout { prefix: prefix.to_owned(), native };
        BaseNames::new([stored].into_iter(), &layout).find(parameter)
    }

    #[test]
    fn a_base_in_another_layout_than_the_trained_one_is_found() {
        const BART: &str = "vlm.language_model.model.encoder.layers.0.fc1.weight";
        const NATIVE_BART: &str = "vlm.language_model.encoder.layers.0.fc1.weight";
        let in_lerobot = |name: &str| format!("model.{name}");
        for (stored, prefix, native, parameter) in [
            (BART.to_owned(), "", false, BART.to_owned()),
            (BART.to_owned(), "", false, in_lerobot(BART)),
            (BART.to_owned(), "", false, in_lerobot(NATIVE_BART)),
            (in_lerobot(BART), "model.", false, BART.to_owned()),
            (in_lerobot(BART), "model.", false, in_lerobot(NATIVE_BART)),
            (in_lerobot(NATIVE_BART), "model.", true, BART.to_owned()),
            (in_lerobot(NATIVE_BART), "model.", true, in_lerobot(NATIVE_BART)),
        ] {
            let found = find(&stored, prefix, native, &parameter);
            assert_eq!(found, Some(Found { stored: stored.clone(), transposed: false }), "{stored} {parameter}");
        }
    }

    #[test]
    fn the_projection_of_images_is_turned_round_between_layouts() {
        const NATIVE: &str = "vlm.multi_modal_projector.image_projection.weight";
        assert!(find(IMAGE_PROJECTION, "", false, &format!("model.{NATIVE}")).unwrap().transposed);
        assert!(find(&format!("model.{NATIVE}"), "model.", true, IMAGE_PROJECTION).unwrap().transposed);
        assert!(!find(&format!("model.{NATIVE}"), "model.", true, &format!("model.{NATIVE}")).unwrap().transposed);
    }

    #[test]
    fn what_the_base_does_not_store_is_not_found() {
        assert_eq!(find("transformer.pos_emb", "", false, "transformer.pos"), None);
    }
}
