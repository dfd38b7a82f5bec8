//! Paths of files as info.json writes them: `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet`.

use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

/// A path with gaps for numbers and keys, in the part of Python's format language that LeRobot uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { name: String, width: usize },
}

/// What a gap is filled with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill<'a> {
    Number(u64),
    Key(&'a str),
}

impl Template {
    /// Reads `{name}` and `{name:0Nd}` in `text`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let unclear = || format!("{text:?} is no path with fields such as {{chunk_index:03d}}");
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (field, after) = after.split_once('}').ok_or_else(unclear)?;
            let (name, format) = field.split_once(':').unwrap_or((field, ""));
            let width = match format {
                "" | "d" => 0,
                format => format.strip_suffix('d').and_then(|digits| digits.parse().ok()).ok_or_else(unclear)?,
            };
            // Wider numbers are no names of files.
            if name.is_empty() || width > 64 {
                return Err(unclear());
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Field { name: name.to_owned(), width });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// The path with every gap filled.
    ///
    /// # Errors
    /// A field that `fields` lacks, or a path that leaves the data set's folder.
    pub(super) fn fill(&self, fields: &[(&str, Fill)]) -> Result<PathBuf, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Field { name, width } => {
                    let fill = fields.iter().find(|(known, _)| known == name).map(|(_, fill)| fill);
                    // Writing to a string cannot fail.
                    let _ = match fill.ok_or_else(|| format!("the field {{{name}}} is not known"))? {
                        Fill::Number(number) => write!(text, "{number:0width$}"),
                        Fill::Key(key) => write!(text, "{key}"),
                    };
                }
            }
        }
        let path = PathBuf::from(text);
        if is_within(&path) { Ok(path) } else { Err(format!("{} leaves the folder of the data set", path.display())) }
    }
}

/// Whether a relative path stays within the folder that it starts from.
pub(super) fn is_within(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_padded_as_python_does() {
        let template = Template::parse("videos/{video_key}/chunk-{chunk_index:03d}/{file_index}.mp4").unwrap();
        let fields = [
            ("video_key", Fill::Key("observation.images.top")),
            ("chunk_index", Fill::Number(7)),
            ("file_index", Fill::Number(12)),
        ];
        assert_eq!(template.fill(&fields).unwrap(), Path::new("videos/observation.images.top/chunk-007/12.mp4"));
    }

    #[test]
    fn a_path_out_of_the_folder_is_refused() {
        for text in ["../{chunk_index}.parquet", "/etc/{chunk_index}"] {
            let refusal = Template::parse(text).unwrap().fill(&[("chunk_index", Fill::Number(0))]).unwrap_err();
            assert!(refusal.contains("leaves the folder"), "{refusal}");
        }
    }

    #[test]
    fn fields_that_cannot_be_filled_are_named() {
        let refusal = Template::parse("data/{part:02d}").unwrap().fill(&[]).unwrap_err();
        assert!(refusal.contains("{part}"), "{refusal}");
        for text in ["data/{chunk", "data/{n:x}", "{}", "{n:99999999d}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
